"""What to do with a step whose loss or gradient norm is not finite, or that leaves such weights: skip it, go back to a
save, or stop.

Skipping comes first: where one batch is too much, going back would meet it again, since data and arithmetic are
functions of the step. Where several steps in a row fail, the weights themselves may be spoilt (a memory or arithmetic
fault of the machine), and going back to a save mends that. A replay that fails at the same step shows that this was no
passing fault, or that the save is spoilt as well: the one before it is tried. Where none is left, the cause lies in
data or training, and no further replay would help: the run stops.

The policy sees only numbers that are the same on every process, so all decide alike without a word between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
    back_to: int = 0
    """Step of the save to go back to, for ROLL_BACK."""
    used_up: tuple[str, ...] = ()
    """For STOP, those of the limits that would have to be higher to go on."""


class NonFinitePolicy:
    """Decides step by step, within a stage's budget.

    `events` are those of the stage's metrics file so far: what earlier attempts spent stays spent, so that a run which
    crashes and resumes again and again cannot help itself for ever.
    """

    def __init__(self, limits: NonFinite, events: Iterable[Mapping[str, Any]] = ()) -> None:
        self.limits = limits
        self.in_a_row = 0
        """Steps skipped just before the next one. While there are any, weights may be spoilt though finite."""
        self.skipped: set[int] = set()
        self.returns: list[tuple[int, int]] = []
        """Each rollback's step, and the step of the save that it went back to."""
        for event in events:
            if event["event"] == SKIP:
                self.skipped.add(event["step"])
            elif event["event"] == ROLLBACK:
                self.returns.append((event["step"], event["from_step"]))

    def decide(self, step: int, loss: float, norm: float, kept: Sequence[int] = (), *, last: bool = False) -> Decision:
        """What to do with a step, given its loss and gradient norm; `kept` are the steps of the saves there are.

        A step that an earlier attempt or the pass before a rollback skipped does not count twice. The last one is only
        skipped where no replay is left to try: no step comes after it to show whether the weights are what is wrong.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.in_a_row = 0
            return Decision(Action.PROCEED)
        if used_up := self._used_up(step):
            why = f"{self.in_a_row} steps in a row and {len(self.skipped)} in all were skipped"
            return self._go_back(step, why, used_up, kept)
        if last:
            replay = self._go_back(step, "it is the last step, after which spoilt weights would not show", (), kept)
            if replay.action is Action.ROLL_BACK:
                return replay
        self.in_a_row += 1
        self.skipped.add(step)
        return Decision(
            Action.SKIP,
            f"{self.in_a_row} of {self.limits.skips} skips in a row, "
            f"{len(self.skipped)} of {self.limits.skips_in_all} in all",
        )

    def spoilt(self, step: int, kept: Sequence[int]) -> Decision:
        """What to do where weights or optimizer state turn out not to be finite after a step."""
        return self._go_back(step, "weights or optimizer state are not finite after this step", (), kept)

    def _used_up(self, step: int) -> tuple[str, ...]:
        """Limits that do not allow to skip a step."""
        in_a_row = self.in_a_row >= self.limits.skips
        in_all = step not in self.skipped and len(self.skipped) >= self.limits.skips_in_all
        return ("skips",) * in_a_row + ("skips_in_all",) * in_all

    def _go_back(self, step: int, why: str, used_up: tuple[str, ...], kept: Sequence[int]) -> Decision:
        """Back to the newest save from which a replay has not met the same step already, if that is allowed."""
        if tried := [save for at, save in self.returns if at == step]:
            why += f"; replays from the save of step {' and '.join(map(str, tried))} met it at the same step"
        left = [save for save in kept if save < min(tried, default=step)]
        if not left:
            return Decision(
                Action.STOP, f"{why}; to go back takes {'an older' if tried else 'a'} save", used_up=used_up
            )
        made, allowed = len(self.returns), self.limits.rollbacks
        if made >= allowed:
            why += f"; {made} rollbacks were made, no more are allowed"
            return Decision(Action.STOP, why, used_up=(*used_up, "rollbacks"))
        self.in_a_row = 0
        self.returns.append((step, max(left)))
        return Decision(Action.ROLL_BACK, f"{why}; rollback {made + 1} of {allowed}", back_to=max(left))


def event_fields(step: int, loss: float, norm: float, decision: Decision) -> dict[str, Any]:
    """Fields of the event of a step that did not proceed; numbers that JSON does not have are written as text."""
    return {"step": step, "loss": _told(loss), "gradient_norm": _told(norm), "message": decision.reason}


def _told(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
