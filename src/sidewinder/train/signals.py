"""SIGTERM and SIGINT during training: the handler only sets a flag, which the loop reads between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from sidewinder.errors import SidewinderError

STOPPING = (signal.SIGTERM, signal.SIGINT)


class TrainingStopped(SidewinderError):
    """Training was asked to stop, and has saved its state."""


class StopSignals:
    """Between entering and leaving, a stop signal sets `received` to its name instead of ending the process.

    Python delivers signals to the main thread alone; elsewhere nothing is installed and the signals keep their effect.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._earlier: dict[signal.Signals, Any] = {}

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
