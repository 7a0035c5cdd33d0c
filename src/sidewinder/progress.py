"""Progress of a long job: one live line, readable by people and, as a small JSON file, by `sidewinder study`.

Every job shows `name done/total %, fields, ETA`. On a terminal the line is redrawn in place; otherwise one line is
printed every few seconds, so that logs stay readable. `SIDEWINDER_PROGRESS` names a folder for the JSON files; where it
is set, nothing is printed, because the caller draws all jobs together.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

Item = TypeVar("Item")
REDRAW_S = 0.5
LOG_LINE_S = 10.0


def duration(seconds: float) -> str:
    """`75` → `1:15`; hours only where needed."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Counts `done` of `total` units of one named job.

    A `silent` one shows nothing: one of several processes speaks for all.

    >>> with Progress("hybrid-s1 pretrain", total=300, unit="step") as progress:
    ...     progress.update(1, loss="7.41", rate="1.0e-03")
    """

    def __init__(self, name: str, *, total: int | None, unit: str, done: int = 0, silent: bool = False) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self.fields: dict[str, str] = {}
        self._first_done, self._started, self._shown = done, time.monotonic(), 0.0
        folder = os.environ.get("SIDEWINDER_PROGRESS")
        self._file = Path(folder) / f"{os.getpid()}.json" if folder else None
        self._live = self._file is None and sys.stderr.isatty()
        self._silent = silent

    def update(self, step: int = 1, **fields: str) -> None:
        """Adds `step` units; fields are shown behind the count in the order given."""
        self.done += step
        self.fields.update(fields)
        every = REDRAW_S if self._live or self._file else LOG_LINE_S
        if time.monotonic() - self._shown >= every:
            self._show()

    def over(self, items: Iterable[Item], step: int = 1) -> Iterator[Item]:
        """Yields `items`, counting each when the next is asked for."""
        for item in items:
            yield item
            self.update(step)

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the mean speed so far; None while unknown."""
        gone, made = time.monotonic() - self._started, self.done - self._first_done
        return gone / made * (self.total - self.done) if self.total and made else None

    def line(self) -> str:
        """The whole progress as one line of text."""
        count = f"{self.done:,}/{self.total:,} {self.unit}" if self.total else f"{self.done:,} {self.unit}"
        share = f" {100 * self.done / self.total:3.0f} %" if self.total else ""
        eta = f"ETA {duration(self.eta_s)}" if self.eta_s is not None else ""
        shown = [f"{key} {value}" for key, value in self.fields.items()]
        return " | ".join([f"{self.name}  {count}{share}", *shown, *([eta] if eta else [])])

    def _show(self) -> None:
        self._shown = time.monotonic()
        if self._silent:
            return
        if self._file:
            self._write({"name": self.name, "done": self.done, "total": self.total, "line": self.line()})
        elif self._live:
            print(f"\r\033[K{self.line()}", end="", file=sys.stderr, flush=True)
        else:
            print(self.line(), file=sys.stderr, flush=True)

    def _write(self, state: dict[str, Any]) -> None:
        assert self._file
        part = self._file.with_suffix(".part")
        try:
            part.write_text(json.dumps(state | {"pid": os.getpid(), "time": time.time()}))
            part.replace(self._file)
        except OSError:  # A full disk must stop the work where it saves, not where it draws.
            self._file = None

    def __enter__(self) -> Self:
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()
        if self._live and not self._silent:
            print(file=sys.stderr)
        if self._file:
            self._file.unlink(missing_ok=True)
