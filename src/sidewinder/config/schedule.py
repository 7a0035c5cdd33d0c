"""What changes in the course of a stage: the batch, which may ramp up, and the learning rate, which decays."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sidewinder.config.base import Count, Share, Strict


class BatchRamp(Strict):
    """Small batches first: `start_sequences`, then more by `increment_sequences` at equal distances.

    The full batch is reached after `over_sequences` sequences, as Megatron-LM's `--rampup-batch-size` does.
    """

    start_sequences: Count
    """Sequences of the first step."""
    increment_sequences: Count
    """Added at a time; whole increments must reach the full batch."""
    over_sequences: Count
    """Sequences trained on before the batch is full."""

    def faults(self, full_sequences: int, micro_sequences: int | None) -> list[str]:
        """What speaks against the ramp for a full batch and the part of it that one forward pass takes."""
        rest, step = full_sequences - self.start_sequences, self.increment_sequences
        found = []
        if rest <= 0 or rest % step:
            found.append(
                f"batch_ramp: whole increments of {step} do not lead from start_sequences ({self.start_sequences}) "
                f"to batch_sequences ({full_sequences})"
            )
        for name, size in (("start_sequences", self.start_sequences), ("increment_sequences", step)):
            if micro_sequences and size % micro_sequences:
                found.append(f"micro_batch_sequences ({micro_sequences}) must divide batch_ramp.{name} ({size})")
        return found


class Decay(Strict):
    """The way of the learning rate from its peak, where warm-up leads, to its minimum, which then holds."""

    shape: Literal["cosine", "linear", "constant"] = "cosine"
    """`constant` keeps the peak."""
    start_share: Share = 0.0
    """Share of the budget that decay begins after; until then the rate keeps its peak (0.8 and linear: warm-up, stable,
    decay). Never before the warm-up ends."""
    end_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the budget by which the minimum is reached."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start_share >= self.end_share:
            raise ValueError(f"start_share ({self.start_share:g}) must be less than end_share ({self.end_share:g})")
        return self


@dataclass(frozen=True)
class BatchPlan:
    """The batch of every step, as stretches of steps with one size; steps are counted from 1.

    Stretch k begins with step `first_steps[k]`, before which `sequences[k]` sequences were read. Any step is found by
    bisection over the few stretches.
    """

    first_steps: tuple[int, ...]
    sequences: tuple[int, ...]
    sizes: tuple[int, ...]

    def size(self, step: int) -> int:
        """Sequences of a step."""
        return self.sizes[bisect_right(self.first_steps, step) - 1]

    def before(self, step: int) -> int:
        """Sequences of all steps before this one."""
        stretch = bisect_right(self.first_steps, step) - 1
        return self.sequences[stretch] + (step - self.first_steps[stretch]) * self.sizes[stretch]

    def steps_in(self, sequences: int) -> int:
        """Whole steps that so many sequences are enough for."""
        stretch = bisect_right(self.sequences, sequences) - 1
        return self.first_steps[stretch] - 1 + (sequences - self.sequences[stretch]) // self.sizes[stretch]


@lru_cache(maxsize=256)
def batch_plan(ramp: BatchRamp | None, full_sequences: int) -> BatchPlan:
    """The plan of a ramp, which must reach the full batch in whole increments; None for the full batch throughout.

    A step has the size that belongs to the sequences read before it: start + increment x floor(read x n / over) for n
    increments. Sizes that a step of the one before jumps over have no step.
    """
    if ramp is None:
        return BatchPlan((1,), (0,), (full_sequences,))
    increments = (full_sequences - ramp.start_sequences) // ramp.increment_sequences
    stretches, step, read = [], 1, 0
    for increment in range(increments):
        size = ramp.start_sequences + increment * ramp.increment_sequences
        end = -(-(increment + 1) * ramp.over_sequences // increments)  # Rounded up: read whole by then.
        if read < end:
            stretches.append((step, read, size))
            steps = -(-(end - read) // size)
            step, read = step + steps, read + steps * size
    stretches.append((step, read, full_sequences))
    first_steps, sequences, sizes = zip(*stretches, strict=True)
    return BatchPlan(first_steps, sequences, sizes)
