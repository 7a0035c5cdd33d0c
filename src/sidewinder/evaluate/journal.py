"""Answers that a model has already given, kept as they come, so that a killed evaluation goes on where it was.

One JSON object a line in `answers-<rank>.jsonl`: the key is a digest of the request, so an answer is found again
whatever the order of requests. A line that was cut short by a kill is left out, and so asked again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sidewinder.record import digest


def request_key(kind: str, arguments: Iterable[Any], *settings: Any) -> str:
    """What identifies a request: its kind, its texts, and the settings that shape the answer."""
    return digest([kind, list(arguments), *settings])


class Journal:
    """Known answers by key; those added are written at once. Without a folder, they are kept in memory alone."""

    def __init__(self, folder: Path | None = None, rank: int = 0) -> None:
        self._known: dict[str, Any] = {}
        self._path = folder / f"answers-{rank}.jsonl" if folder else None
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("answers-*.jsonl")):
                self._known |= dict(_read(path))
        self.found = len(self._known)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def add(self, answers: dict[str, Any], *, write: bool = True) -> None:
        """Keeps answers; `write` is false for those that another process has written."""
        self._known |= answers
        if self._path is None or not write or not answers:
            return
        with self._path.open("a") as stream:
            # A line that a kill has cut short is ended first.
            start = "\n" if stream.tell() else ""
            stream.write(start + "\n".join(json.dumps([key, value]) for key, value in answers.items()))


def _read(path: Path) -> Iterable[tuple[str, Any]]:
    for line in path.read_text(errors="replace").split("\n"):
        try:
            key, value = json.loads(line)
        except (ValueError, TypeError):
            continue
        yield key, value
