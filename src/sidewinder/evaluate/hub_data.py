"""Data sets of evaluation tasks from the hub: each read at one revision, which is recorded.

A revision is that of the hub's branch when a suite first reads the data set. What is read again, for other shots or
lengths or after the suite was killed, is read at the same one. Where the hub cannot be asked, `datasets` may still have
the data set in its own cache, and the revision is that of what it had.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidewinder.evaluate.local_data import DEFAULT
from sidewinder.evaluate.mendable import Mendable
from sidewinder.record import digest

UNKNOWN = "unknown"
PATIENCE_S = 10  # As the hub's client has with a file. On many compute nodes nothing answers, nor refuses.
COMMIT = re.compile(r"[0-9a-f]{40}")
FORMS = {
    "/resolve/": re.compile(r"https://huggingface\.co/datasets/(?P<path>[^/:]+/[^/:]+)/resolve/(?P<revision>[^/:]+)/"),
    "@": re.compile(r"hf://datasets/(?P<path>[^/:@]+/[^/:@]+)(@(?P<revision>[^/:]+))?/"),
}
"""What a revision stands behind → addresses of files of the hub, up to the file's name."""


@dataclass
class HubData:
    """The hub, as `reading` puts it before `datasets.load_dataset`. `used` fills with the revisions of what was read.

    Emptying it, a caller sees what was read since then.
    """

    used: dict[str, str] = field(default_factory=dict)
    _pinned: dict[str, str] = field(default_factory=dict)
    _told: dict[tuple[str, str | None], str | None] = field(default_factory=dict)
    """What the hub said of each data set, or that it said nothing, so that it is asked once of MMLU's 57 parts."""

    def load_dataset(
        self, original: Callable[..., Any], path: str, name: str | None = None, *args: Any, **settings: Any
    ) -> Any:
        """What `original` gives for the same arguments, at the pinned revision."""
        files = settings.get("data_files")
        if files is not None:
            settings["data_files"] = self._files(files)
        if Path(path).exists() or (files is not None and "/" not in path):  # `json` and the like; or a local data set.
            return original(path, name, *args, **settings)
        asked = settings.pop("revision", None)
        key = f"{path}/{name or DEFAULT}" + (f"@{asked}" if asked else "")
        revision = self._revision(key, path, asked)
        found = original(path, name, *args, revision=revision or asked, **settings)
        self._use(key, _told_by(found) or revision or UNKNOWN)
        return found

    def note(self, key: str, content: Any) -> None:
        """Tells of a file that was read from elsewhere, and has no revision."""
        self._use(key, f"content:{digest(content)[:12]}")

    def unchanged(self, used: dict[str, str]) -> bool:
        """Whether what was used before is what would be read now. A data set not read yet is pinned to what it was."""
        return all(self._pinned.setdefault(key, revision) == revision for key, revision in used.items())

    def _files(self, files: Any) -> Any:
        """Addresses of files, those of the hub at a revision. Local files stay as they are."""
        if isinstance(files, dict):
            return {split: self._files(file) for split, file in files.items()}
        if isinstance(files, list):
            return [self._files(file) for file in files]
        address = str(files)
        for joint, form in FORMS.items():
            if found := form.search(address):
                before, file = address[: found.end("path")], address[found.end() :]
                key = f"{found['path']}/{file.removesuffix('.zip')}"
                revision = self._revision(key, found["path"], found["revision"])
                self._use(key, revision or UNKNOWN)
                return f"{before}{joint}{revision}/{file}" if revision else files
        return files

    def _revision(self, key: str, path: str, asked: str | None) -> str | None:
        """The pinned one, or the newest; None where the hub does not tell."""
        if self._pinned.get(key, UNKNOWN) != UNKNOWN:
            return self._pinned[key]
        if (path, asked) not in self._told:
            self._told[path, asked] = _newest(path, asked)
        return self._told[path, asked]

    def _use(self, key: str, revision: str) -> None:
        """Raises Mendable where it was another one before, as `datasets` reads of its cache what it has, unasked."""
        before = self._pinned.get(key, UNKNOWN)
        if before not in (UNKNOWN, revision):
            raise Mendable(
                f"{key} is {revision} here, and was {before} when the suite's other tasks read it",
                remedy="run it where the hub can be reached, or delete the suite's folder to do all its tasks again",
            )
        self.used[key] = self._pinned[key] = revision


def _newest(path: str, asked: str | None) -> str | None:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(path, revision=asked, timeout=PATIENCE_S).sha)
    except Exception:  # Of many kinds. `datasets` finds the data set in its cache, or tells better what is wrong.
        return None


def _told_by(found: Any) -> str | None:
    """The revision that a loaded data set tells: `datasets` keeps what it has read in folders of that name."""
    parts = found.values() if isinstance(found, dict) else [found]
    folders = {Path(file["filename"]).parent.name for part in parts for file in getattr(part, "cache_files", [])}
    return folders.pop() if len(folders) == 1 and all(map(COMMIT.fullmatch, folders)) else None
