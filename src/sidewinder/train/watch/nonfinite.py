"""What to do with a step whose loss or gradient norm is not finite: skip it, go back to a save, or stop.

Skipping comes first: where one batch is too much, going back would meet it again, since data and arithmetic are
functions of the step. Where several steps in a row fail, the weights themselves may be spoilt (a memory or arithmetic
fault of the machine), and going back to a save mends that. A replay that fails at the same step shows that the cause
lies in the training, and no further replay would help: the run stops.

The policy sees only numbers that are the same on every process, so all decide alike without a word between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sidewinder.config.watch import NonFinite

SKIP, ROLLBACK = "skip", "rollback"
"""Names of the events in a metrics file, from which the policy of a resumed run knows what was spent before."""


class Action(StrEnum):
    """What becomes of a step."""

    PROCEED = "proceed"
    SKIP = "skip"
    ROLL_BACK = "roll_back"
    STOP = "stop"


@dataclass(frozen=True)
class Decision:
    """An action and, for any but PROCEED, the reason for it in words."""

    action: Action
    reason: str = ""


class NonFinitePolicy:
    """Decides step by step, within a stage's budget.

    `events` are those of the stage's metrics file so far: what earlier attempts spent stays spent, so that a run which
    crashes and resumes again and again cannot help itself for ever.
    """

    def __init__(self, limits: NonFinite, events: Iterable[Mapping[str, Any]] = ()) -> None:
        self.limits = limits
        self.in_a_row = 0
        """Steps skipped just before the next one. While there are any, a save may hold spoilt weights: write none."""
        self.skipped: set[int] = set()
        self.rolled_back_at: list[int] = []
        for event in events:
            if event["event"] == SKIP:
                self.skipped.add(event["step"])
            elif event["event"] == ROLLBACK:
                self.rolled_back_at.append(event["step"])

    def decide(self, step: int, loss: float, norm: float, *, has_save: bool = True) -> Decision:
        """What to do with a step, given its loss and gradient norm; `has_save` tells whether there is one to return to.

        A step that an earlier attempt or the pass before a rollback skipped does not count twice.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.in_a_row = 0
            return Decision(Action.PROCEED)
        known = step in self.skipped
        if self.in_a_row < self.limits.skips and (known or len(self.skipped) < self.limits.skips_in_all):
            self.in_a_row += 1
            self.skipped.add(step)
            return Decision(
                Action.SKIP,
                f"{self.in_a_row} of {self.limits.skips} skips in a row, "
                f"{len(self.skipped)} of {self.limits.skips_in_all} in all",
            )
        return self._beyond_skips(step, has_save)

    def _beyond_skips(self, step: int, has_save: bool) -> Decision:
        spent = f"{self.in_a_row} steps in a row and {len(self.skipped)} in all were skipped"
        if step in self.rolled_back_at:
            return Decision(
                Action.STOP,
                f"{spent}; a replay from a save met it at the same step, so the cause is not a passing fault",
            )
        if len(self.rolled_back_at) >= self.limits.rollbacks:
            return Decision(
                Action.STOP, f"{spent}; {len(self.rolled_back_at)} rollbacks were made, no more are allowed"
            )
        if not has_save:
            return Decision(Action.STOP, f"{spent}; to go back takes a save")
        self.in_a_row = 0
        self.rolled_back_at.append(step)
        return Decision(Action.ROLL_BACK, f"{spent}; rollback {len(self.rolled_back_at)} of {self.limits.rollbacks}")


def event_fields(step: int, loss: float, norm: float, decision: Decision) -> dict[str, Any]:
    """Fields of the event of a step that did not proceed; numbers that JSON does not have are written as text."""
    return {"step": step, "loss": _told(loss), "gradient_norm": _told(norm), "message": decision.reason}


def _told(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
