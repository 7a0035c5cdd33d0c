"""What the processes tell each other once a step, and what all of them know then.

All of it travels in the one sum over the processes that every step makes for loss and gradient norm. A number of which
the highest is wanted has a place for each process there: a process writes into its own, and the others add zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidewinder.train.meter import CHECKPOINT_STALL, DATA_WAIT
from sidewinder.train.parallel.world import World
from sidewinder.train.signals import STOPPING, agreed


@dataclass(frozen=True)
class Own:
    """What one process tells of itself."""

    signals: Sequence[float]
    """`StopSignals.numbers`."""
    writing: bool
    """It is still at work on a save."""
    memory_bytes: int
    waited_s: dict[str, float]
    """By what it waited for, since the last row of metrics."""

    def numbers(self, world: World) -> list[float]:
        """The numbers to be summed over the processes, for `summed`."""
        most = (self.memory_bytes, self.waited_s[DATA_WAIT], self.waited_s[CHECKPOINT_STALL])
        places = [value if rank == world.rank else 0.0 for value in most for rank in range(world.size)]
        return [*self.signals, float(self.writing), *places]


@dataclass(frozen=True)
class Sums:
    """What all processes know after exchanging their numbers."""

    loss: float
    norm: float
    signal: str | None
    saved: bool
    """No process is still writing a save."""
    memory_bytes: int
    """Of the process that uses most; to 24 bits, which is what the sum carries."""
    waited_s: dict[str, float]
    """Of the process that waited longest, by what it waited for."""


def summed(loss: float, norm: float, numbers: Sequence[float], processes: int) -> Sums:
    """Reads what `Own.numbers` has become by the sum over so many processes."""
    signals, writing, places = numbers[: len(STOPPING)], numbers[len(STOPPING)], numbers[len(STOPPING) + 1 :]
    memory, data, stall = (max(places[first : first + processes]) for first in range(0, len(places), processes))
    return Sums(loss, norm, agreed(signals), writing == 0, int(memory), {DATA_WAIT: data, CHECKPOINT_STALL: stall})
