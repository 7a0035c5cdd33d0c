"""How far a stage is, from the last lines of its metrics; and what notice its saves need.

Only the end of the file is read: after weeks of training it is long.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TAIL_BYTES = 1 << 20
UNKNOWN_NOTICE_S = 300
"""Before anything was measured."""
LAST = 20


@dataclass(frozen=True)
class Standing:
    """What the last rows say."""

    step: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None
    step_s: float | None = None
    """Mean of the last steps."""
    slowest_step_s: float | None = None
    slowest_save_s: float | None = None
    saves: list[tuple[float, int]] = field(default_factory=list)
    """(time, step), oldest first."""
    time: float | None = None
    """Of the last row."""


def tail(path: Path, size: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """The last whole rows of a metrics file; none where there is no file."""
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - size))
        lines = stream.read().splitlines()
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # The first is cut by the tail, the last perhaps by its writer.
            continue
    return [row for row in rows if isinstance(row, dict) and "event" in row]


def standing(path: Path) -> Standing:
    """Reads the metrics of a stage; an empty standing where it has none."""
    rows = tail(path)
    steps = [row for row in rows if row["event"] == "step"][-LAST:]
    saves = [row for row in rows if row["event"] == "save"]
    last = steps[-1] if steps else {}
    times = [row["step_s"] for row in steps]
    return Standing(
        step=last.get("step") or max((row["step"] for row in saves), default=0),
        loss=last.get("loss"),
        tokens_per_s=last.get("tokens_per_s"),
        step_s=sum(times) / len(times) if times else None,
        slowest_step_s=max(times, default=None),
        slowest_save_s=max((row["save_s"] for row in saves[-LAST:]), default=None),
        saves=[(row["time"], row["step"]) for row in saves],
        time=rows[-1]["time"] if rows else None,
    )


def notice_s(found: Standing, minutes: int) -> int:
    """Seconds before its time limit at which a job must stop to save: twice the slowest step and save seen, and 30.

    At most half of the limit, so that a job always trains; UNKNOWN_NOTICE_S while nothing was measured.
    """
    if found.slowest_save_s is None or found.slowest_step_s is None:
        wanted: float = UNKNOWN_NOTICE_S
    else:
        wanted = 30 + 2 * (found.slowest_save_s + found.slowest_step_s)
    return math.ceil(min(wanted, 30 * minutes))
