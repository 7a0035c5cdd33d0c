"""What the tasks of a study's suites read: data sets of the hub, and files; and which tasks there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sidewinder.config.suites import Harness, Suite
from sidewinder.evaluate.cloze import TASK as CLOZE
from sidewinder.evaluate.local_data import DEFAULT
from sidewinder.evaluate.presets import PHONEBOOK, tasks
from sidewinder.evaluate.ruler_tasks import ESSAYS, QA_FILES

SCROLLS = "tau/scrolls"
SCROLLS_NAMES = {"scrolls_narrativeqa": "narrative_qa", "scrolls_qasper": "qasper", "scrolls_quality": "quality"}
HUB = "https://huggingface.co/datasets"
ESSAY_TASKS = ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
WITHOUT_DATA = {CLOZE, *PHONEBOOK, "sidewinder_haystack"}
"""Tasks whose samples are made, for which lm-eval's index need not be read."""
FILES = {
    # RULER's question files: (place in the folder, address). The second is pinned by lm-eval itself.
    "ruler_qa_squad": (
        QA_FILES["ruler_qa_squad"][1],
        "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
    ),
    "ruler_qa_hotpot": (
        QA_FILES["ruler_qa_hotpot"][1],
        f"{HUB}/namlh2004/hotpotqa/resolve/7e54db4656209750ff487f6fdf8e39a66dba136b/hotpot_dev_distractor_v1.json",
    ),
}


@dataclass(frozen=True)
class Need:
    """A data set of the hub (path and configuration), or a file (place and address), and a task that reads it."""

    task: str
    path: str
    name: str | None = None
    address: str | None = None

    @property
    def key(self) -> str:
        """Its folder, or file, below the data folder."""
        return self.path if self.address else f"{self.path}/{self.name or DEFAULT}"


@dataclass(frozen=True)
class Unknown:
    """A task that neither lm-eval nor Sidewinder has, and those with the nearest names."""

    task: str
    near: tuple[str, ...]

    def __str__(self) -> str:
        return f"unknown lm-eval task {self.task!r}; near: {', '.join(self.near)}"


def needs(suites: Iterable[Suite]) -> tuple[list[Need], list[Unknown]]:
    """What the tasks of all harness suites read, each once, in order; and the tasks that there are not."""
    found: dict[str, Need] = {}
    unknown: dict[str, Unknown] = {}
    harness = [suite for suite in suites if isinstance(suite, Harness)]
    for include_path in dict.fromkeys(suite.include_path for suite in harness):
        own = [suite for suite in harness if suite.include_path == include_path]
        asked = [(task, _known(task, suite.haystack)) for suite in own for task in tasks(suite)]
        index = _index([task for task, known in asked if known is None], include_path)
        for task, known in asked:
            if known is None and task not in index:
                near = get_close_matches(task, [*index, *WITHOUT_DATA], n=3, cutoff=0.0)
                unknown.setdefault(task, Unknown(task, tuple(near)))
                continue
            for need in _in_index(task, index) if known is None else known:
                found.setdefault(need.key, need)
    return list(found.values()), list(unknown.values())


def _known(task: str, haystack: str) -> list[Need] | None:
    """What a task reads, where that is known without lm-eval's index."""
    if task in WITHOUT_DATA:
        return []
    if task in FILES:
        place, address = FILES[task]
        return [Need(task, place, address=address)]
    if task in SCROLLS_NAMES:
        return [Need(task, SCROLLS, SCROLLS_NAMES[task])]
    if task in ESSAY_TASKS:
        return [Need(task, ESSAYS)] if haystack == "essays" else []
    if task == "squadv2":  # A class, whose file tells; the same for other classes of lm-eval.
        return [Need(task, "lighteval/squad_v2")]
    return None


def _index(names: list[str], include_path: str | None) -> Any:
    """An index of tasks, or as much of it as has these; nothing where no task is asked for."""
    if not names:
        return {}
    from sidewinder.evaluate.task_index import manager_for  # Imports lm-eval, which takes a second.

    return manager_for(names, include_path).task_index


def _in_index(task: str, index: Any) -> list[Need]:
    """Every data set that a task, or a group of tasks, of lm-eval reads."""
    found: list[tuple[str, str | None]] = []
    _collect(index, index[task].cfg or {}, set(), lambda path, name: found.append((path, name)))
    return [Need(task, path, name) for path, name in dict.fromkeys(found)]


def _collect(index: Any, config: Any, seen: set[str], add: Callable[[str, str | None], None]) -> None:
    """Follows groups and tags down to their tasks."""
    if config.get("dataset_path") and not _is_own(config):
        add(str(config["dataset_path"]), config.get("dataset_name"))
    members = config.get("task")
    for member in members if isinstance(members, list) else []:
        if isinstance(member, dict):
            _collect(index, member, seen, add)
            name = member.get("group") or member.get("task")
        else:
            name = member
        if isinstance(name, str) and name in index and name not in seen:
            seen.add(name)
            entry = index[name]
            for own in sorted(entry.tags) if entry.cfg is None else ():
                _collect(index, index[own].cfg or {}, seen, add)
            _collect(index, entry.cfg or {}, seen, add)


def _is_own(config: Any) -> bool:
    """Whether a task names its files itself, so that nothing can be fetched for it."""
    return bool((config.get("dataset_kwargs") or {}).get("data_files")) or Path(config["dataset_path"]).exists()
