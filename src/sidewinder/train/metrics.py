"""metrics.jsonl: one JSON object a line, appended and flushed, so that a killed run leaves every step it made.

Nothing is ever rewritten. A run that goes on from a save at step s appends `{"event": "resume", "from_step": s}`, or
`rollback` where it goes back by itself; earlier rows beyond s no longer count. `read_metrics` gives the rows that do.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

RESTARTS = ("start", "resume", "rollback")
"""Events that say after which step, `from_step`, rows go on."""


class MetricsWriter:
    """Appends events to a metrics file; a half-written last line of a killed run is closed first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a buffer that a full disk refused would be written, and refused, once more on closing.
        self._stream = path.open("ab+", buffering=0)
        if self._stream.tell():
            self._stream.seek(-1, os.SEEK_END)
            if self._stream.read(1) != b"\n":
                self._stream.write(b"\n")

    def write(self, event: str, **fields: Any) -> None:
        """Appends one event. Raises OSError where the disk is full; ValueError for a number that JSON does not have."""
        row = {"event": event, **fields, "time": round(time.time(), 3)}
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        while line:
            line = line[self._stream.write(line) :]

    def sync(self) -> None:
        """Forces all rows to the disk; called before a save, so that no save is ahead of its metrics."""
        os.fsync(self._stream.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


@dataclass
class Metrics:
    """What a metrics file says: the rows that count, in step order, and every other event in order of time."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """One entry for each time the stage was started or resumed."""
        return [
            {"started_at": event["time"], "from_step": event["from_step"], "code": event["code"]}
            for event in self.events
            if event["event"] in ("start", "resume")
        ]


def read_metrics(path: Path) -> Metrics:
    """Reads a metrics file: the last row of each step, without rows that a resume or rollback put behind it.

    Lines that a kill cut short are passed over. A file that does not exist is an empty one.
    """
    rows: dict[int, dict[str, Any]] = {}
    metrics = Metrics()
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["event"] == "step":
            rows[row["step"]] = row
            continue
        metrics.events.append(row)
        if row["event"] in RESTARTS:
            rows = {step: kept for step, kept in rows.items() if step <= row["from_step"]}
    metrics.steps = [rows[step] for step in sorted(rows)]
    return metrics


def set_aside_metrics(path: Path, identity: str) -> Path | None:
    """Renames a metrics file that an older configuration or corpus left; returns its new path, None if it is ours."""
    starts = [event for event in read_metrics(path).events if event["event"] == "start"]
    if not starts or starts[0]["identity"] == identity:
        return None
    return path.rename(path.with_name(f"{path.stem}-{starts[0]['identity'][:8]}{path.suffix}"))
