"""What a stage tells: metrics.jsonl, other writers, and people. One of several processes speaks for all."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidewinder import record
from sidewinder.train.metrics import MetricsWriter, set_aside_metrics
from sidewinder.train.saves import explained
from sidewinder.train.writers import Writers, open_writers


@dataclass
class Journal:
    """Between opening and closing, takes a stage's events; on processes that are not the first it takes none."""

    title: str
    folder: Path
    identity: str
    speaks: bool = True
    writers: tuple[str, ...] = ()
    study: str = "sidewinder"
    _open: ExitStack = field(default_factory=ExitStack, init=False)

    @property
    def path(self) -> Path:
        return self.folder / "metrics.jsonl"

    def open(self) -> None:
        """Opens metrics.jsonl and the writers. Raises CheckpointError (disk) and ConfigError (a writer)."""
        if not self.speaks:
            return
        with explained(self.folder):
            if moved := set_aside_metrics(self.path, self.identity):
                self.tell(f"{self.path} was of another configuration or corpus: it is now {moved}")
            self._metrics = self._open.enter_context(MetricsWriter(self.path))
        about = {"study": self.study, "title": self.title, "identity": self.identity}
        writers = open_writers(self.writers, self.folder, warn=self.warn, **about)
        self._writers: Writers = self._open.enter_context(writers)

    def close(self) -> None:
        self._open.close()

    def begin(self, step: int, processes: int) -> None:
        """Tells that training starts, or goes on from a save of `step`."""
        about = {"identity": self.identity, "code": record.code()["sha256"], "processes": processes}
        self.log("resume" if step else "start", from_step=step, pid=os.getpid(), **about)

    def log(self, event: str, **fields: Any) -> None:
        """Writes an event. Raises CheckpointError where the disk is full."""
        if self.speaks:
            with explained(self.folder):
                self._metrics.write(event, **fields)
            self._writers.write(event, **fields)

    def sync(self) -> None:
        """Forces all rows to the disk; called before a save, so that no save is ahead of its metrics."""
        if self.speaks:
            with explained(self.folder):
                self._metrics.sync()

    def tell(self, message: str) -> None:
        """Says something to whoever watches."""
        if self.speaks:
            print(message, file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """Says and writes a warning."""
        self.tell(f"warning: {message}")
        self.log("warning", message=message)
