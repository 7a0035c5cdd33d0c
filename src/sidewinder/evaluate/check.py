"""Whether the tasks of a study's suites exist and their data is at hand, told before any work is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sidewinder.config.study import Study
from sidewinder.config.suites import Harness, Suite
from sidewinder.errors import DataError
from sidewinder.evaluate.local_data import MANIFEST
from sidewinder.evaluate.needs import Need, needs


def check_data(study: Study) -> int:
    """Number of data sets that the suites read, all of which are in the study's `data` folder, if it has one.

    Raises DataError that names every task that there is not, and everything that is absent or cut short.
    """
    suites = {name: study.suites[name] for name in study.evaluate}
    wanted, unknown = needs(suites.values())
    faults = [f"suites.{_suite_of(suites, task.task)}: {task}" for task in unknown]
    if study.data is not None:
        known = _manifest(Path(study.data))
        for need in wanted:
            fault = _fault(Path(study.data), need, known.get(need.key, {}).get("files", {}))
            faults += [f"suites.{_suite_of(suites, need.task)}: {need.task} reads {fault}"] if fault else []
    if not faults:
        return len(wanted)
    fetched = f"where there is a network, `sidewinder datasets fetch --into {study.data}` (a folder can be copied)"
    raise DataError(
        "\n  ".join([f"{len(faults)} things that the suites name are not there:", *faults]),
        remedy=f"{fetched}; tasks that stay without are left out" if len(unknown) < len(faults) else "mend the names",
    )


def _suite_of(suites: dict[str, Suite], task: str) -> str:
    """The first suite that has the task."""
    from sidewinder.evaluate.presets import tasks

    return next(name for name, suite in suites.items() if isinstance(suite, Harness) and task in tasks(suite))


def _fault(folder: Path, need: Need, files: dict[str, Any]) -> str:
    """What is wrong with a data set; empty where nothing is. Digests are compared when it is read."""
    place = folder / need.key
    there = [place] if need.address else sorted(place.glob("*.parquet"))
    if not all(file.is_file() for file in there) or not there:
        return f"{need.key}, which is not at {place}"
    inside = place.parent if need.address else place
    return next(_damaged(inside, files), "")


def _damaged(folder: Path, files: dict[str, Any]) -> Iterator[str]:
    for name, about in files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else 0
        if size != about.get("bytes", size):
            yield f"{file}, which has {size:,} bytes instead of {about['bytes']:,}"


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    return json.loads(path.read_text())["datasets"] if path.is_file() else {}
