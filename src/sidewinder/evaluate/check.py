"""Whether the tasks of a study's suites exist and their data is at hand, told before any work is done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sidewinder.config.study import Study
from sidewinder.config.suites import Harness, Suite
from sidewinder.errors import DataError
from sidewinder.evaluate.local_data import read_manifest
from sidewinder.evaluate.needs import Need, needs
from sidewinder.evaluate.presets import SHOTLESS, tasks

ABSENT = "absent"


def check_data(study: Study) -> int:
    """Number of data sets that the suites read, all of which are in the study's `data` folder, if it has one.

    Raises DataError that names every task that there is not, and everything that is absent or cut short.
    """
    suites = {name: study.suites[name] for name in study.evaluate}
    wanted, unknown = needs(suites.values())
    names = [f"suites.{_suite_of(suites, task.task)}: {task}" for task in unknown] + _shots(suites)
    data = _absent(Path(study.data), suites, wanted) if study.data is not None and wanted else []
    if not names and not data:
        return len(wanted)
    count = len(names) + len(data)
    remedies = ["mend the names and shots"] if names else []
    if data:
        remedies.append(
            f"where there is a network, `sidewinder datasets fetch --into {study.data}` (a folder can be copied); a "
            "suite with a task that stays without is not finished"
        )
    raise DataError(
        "\n  ".join([f"{count} thing{'s' if count > 1 else ''} wrong with what the suites name:", *names, *data]),
        remedy="; ".join(remedies),
    )


def _shots(suites: dict[str, Suite]) -> list[str]:
    """Tasks that are asked with shots and take none."""
    return [
        f"suites.{name}: {task} takes no shots, but {max(shots)} are asked for"
        for name, suite in suites.items()
        if isinstance(suite, Harness)
        for task, shots in tasks(suite).items()
        if task in SHOTLESS and max(shots)
    ]


def _absent(folder: Path, suites: dict[str, Suite], wanted: list[Need]) -> list[str]:
    """One line for each data set that is absent or cut short, however many configurations of it are."""
    if not folder.is_dir():
        return [f"data: {folder}, from which {len(wanted)} data sets are to be read, is no folder"]
    known, lines = read_manifest(folder), []
    absent: dict[tuple[str, str], list[Need]] = defaultdict(list)
    for need in wanted:
        fault = _fault(folder, need, known.get(need.key, {}).get("files", {}))
        if fault == ABSENT:
            absent[need.task, need.path].append(need)
        elif fault:
            lines.append(f"suites.{_suite_of(suites, need.task)}: {need.task} reads {fault}")
    for (task, path), needed in absent.items():
        what, place = needed[0].key, folder / needed[0].key
        if len(needed) > 1:
            what, place = f"{len(needed)} configurations of {path} ({needed[0].name}, …)", folder / path
        lines.append(f"suites.{_suite_of(suites, task)}: {task} reads {what}, not at {place}")
    return lines


def _suite_of(suites: dict[str, Suite], task: str) -> str:
    """The first suite that has the task."""
    return next(name for name, suite in suites.items() if isinstance(suite, Harness) and task in tasks(suite))


def _fault(folder: Path, need: Need, files: dict[str, Any]) -> str:
    """What is wrong with a data set; empty where nothing is. Digests are compared when it is read."""
    place = folder / need.key
    there = [place] if need.address else sorted(place.glob("*.parquet"))
    if not all(file.is_file() for file in there) or not there:
        return ABSENT
    inside = place.parent if need.address else place
    return next(_damaged(inside, files), "")


def _damaged(folder: Path, files: dict[str, Any]) -> Iterator[str]:
    for name, about in files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else 0
        if size != about.get("bytes", size):
            yield f"{file}, which has {size:,} bytes instead of {about['bytes']:,}"
