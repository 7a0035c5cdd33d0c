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
from lm_eval.tasks._yaml_loader import load_yaml

from sidewinder.errors import ConfigError
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


def manager_for(names: Sequence[str], include_path: str | None = None) -> TaskManager:
    """An index that has these tasks: all of lm-eval's, unless each of them is known to be elsewhere.

    Those of the folder `include_path` go before lm-eval's; its groups may have any of lm-eval's as members. Raises
    ConfigError where there is no such folder, or it has a definition that cannot be read.
    """
    _check_readable(include_path)
    own = TaskManager(include_defaults=False, include_path=include_path)
    folders: set[Path] = set()
    for name in set(names).difference(own.all_subtasks):
        folder = None if name in own.all_tasks else _folder(name)
        if folder is None:
            return _everything(include_path)
        folders.add(folder)
    paths = [str(folder) for folder in sorted(folders)] + [include_path] * (include_path is not None)
    manager = TaskManager(include_defaults=False, include_path=paths)
    return manager if set(names) <= set(manager.all_tasks) else _everything(include_path)


def _check_readable(include_path: str | None) -> None:
    """lm-eval passes over a file with a mistake without a word, and the task would be unknown."""
    if include_path is None:
        return
    if not Path(include_path).is_dir():
        raise ConfigError(f"include_path: {include_path} is no folder", remedy="name the folder of your own tasks")
    for path in sorted(Path(include_path).rglob("*.yaml")):
        try:
            load_yaml(path, resolve_func=False)
        except Exception as error:  # The parser's, of a file that is included, or of the system.
            raise ConfigError(f"cannot read the task {path}: {error}", remedy="mend the file") from error


@cache
def _everything(include_path: str | None) -> TaskManager:
    """Reads 14,000 files, which takes 10 s, so once a process."""
    return TaskManager(include_path=[str(FOLDER)] + [include_path] * (include_path is not None))


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
