"""Stop signals during training: the handler only sets a flag, which the loop reads between two steps.

SIGTERM and SIGINT end a run; SIGUSR2 is how a cluster announces that a job's time is running out. Processes may see
different signals, or see them at different steps: all stop where the first one was told to, for the gravest reason.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from sidewinder.errors import SidewinderError

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""Gravest first: after SIGTERM somebody else is ending the job already."""


class TrainingStopped(SidewinderError):
    """Training was asked to stop; its state is saved, unless the message says otherwise."""

    everywhere = True
    signal: str = STOPPING[0].name
    """Name of the signal that all processes agreed on."""

    def by(self, name: str) -> Self:
        self.signal = name
        return self


class StopSignals:
    """Between entering and leaving, a stop signal sets `received` to its name instead of ending the process.

    Python delivers signals to the main thread alone; elsewhere nothing is installed and the signals keep their effect.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._earlier: dict[signal.Signals, Any] = {}

    @property
    def numbers(self) -> list[float]:
        """One for the signal received, zero for the others of STOPPING: to be summed over processes."""
        return [float(number.name == self.received) for number in STOPPING]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._receive) for number in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)


def agreed(numbers: Sequence[float]) -> str | None:
    """The gravest signal that any process has received, from the sums of `StopSignals.numbers`."""
    return next((number.name for number, count in zip(STOPPING, numbers, strict=True) if count), None)
