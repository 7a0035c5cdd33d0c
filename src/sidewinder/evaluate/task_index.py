"""lm-eval's index of tasks, or as much of it as is needed.

All of it takes several seconds to read, so only the folders of the tasks that are asked for are read where those are
known. Needs neither torch nor a model, so that `sidewinder check` is quick.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # Progress is shown by our own line; tqdm reads this when imported.

import lm_eval.tasks
from lm_eval.tasks import TaskManager

from sidewinder.evaluate.presets import FOLDER, MMLU_FORMATS, NATURAL, RULER, STANDARD

TASKS = Path(lm_eval.tasks.__file__).parent
logging.getLogger("lm_eval").setLevel(logging.ERROR)  # Its hints are about its own command line.
FOLDERS = {
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "mmlu": "mmlu/default",
    "truthfulqa_mc2": "truthfulqa",
}
"""Where lm-eval keeps tasks of the presets whose folder has another name."""


def manager_for(names: Sequence[str]) -> TaskManager:
    """An index that has these tasks: all of lm-eval's, unless each of them is known to be elsewhere."""
    folders: set[Path] = set()
    for name in names:
        folder = _folder(name)
        if folder is None:
            return _everything()
        folders.add(folder)
    manager = TaskManager(include_defaults=False, include_path=[str(folder) for folder in sorted(folders)])
    return manager if set(names) <= set(manager.all_tasks) else _everything()


@cache
def _everything() -> TaskManager:
    """Reads 14,000 files, which takes 10 s, so once a process."""
    return TaskManager(include_path=str(FOLDER))


def _folder(name: str) -> Path | None:
    if name.startswith("sidewinder_"):
        return FOLDER
    if name in RULER:
        return TASKS / "ruler"
    if name in NATURAL:
        return TASKS / name.split("_")[0]
    if name.startswith("mmlu_"):
        return TASKS / "mmlu" / ("continuation" if name.endswith("continuation") else "default")
    if name in STANDARD or name in MMLU_FORMATS:
        return TASKS / FOLDERS.get(name, name)
    return TASKS / name if _defined(name, TASKS / name) else None


def _defined(name: str, folder: Path) -> bool:
    """Whether a folder of lm-eval's defines a task of its own name; the tasks of a group may lie elsewhere."""
    line = re.compile(rf"^task: *['\"]?{re.escape(name)}['\"]? *$", re.MULTILINE)
    return any(line.search(path.read_text(errors="replace")) for path in folder.glob("*.yaml"))
