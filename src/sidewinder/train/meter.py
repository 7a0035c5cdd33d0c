"""What a step's row of metrics says beyond the loss: speed, utilisation, bits per byte, and time lost by waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from sidewinder.train.hardware import utilisation

DATA_WAIT, CHECKPOINT_STALL = "data_wait_s", "checkpoint_stall_s"


@dataclass
class Meter:
    """The constants of a stage, and the waiting since its last row."""

    flops_per_token: float
    device_count: int = 1
    peak_flops_per_s: float | None = None
    """Of one device, for the arithmetic in use; None where it is not known, as where layers multiply in float8 and
    others do not; then no utilisation is told."""
    bytes_per_token: float | None = None
    """Bytes of text that a token of the training data stands for; None where it is not known."""
    _waited_s: dict[str, float] = field(default_factory=lambda: {DATA_WAIT: 0.0, CHECKPOINT_STALL: 0.0})
    _stretch: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), 0.0))
    """When the present stretch of `data_stretch` began, and the waiting for data in it."""

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Counts the time within as waiting for `what`: DATA_WAIT or CHECKPOINT_STALL."""
        started = time.perf_counter()
        try:
            yield
        finally:
            waited_s = time.perf_counter() - started
            self._waited_s[what] += waited_s
            if what == DATA_WAIT:
                self._stretch = (self._stretch[0], self._stretch[1] + waited_s)

    def data_stretch(self) -> tuple[float, float]:
        """(seconds since this was last asked, those of them spent waiting for data)."""
        (began, waited_s), now = self._stretch, time.perf_counter()
        self._stretch = (now, 0.0)
        return now - began, waited_s

    @property
    def waited_s(self) -> dict[str, float]:
        """Seconds that this process has waited since its last row, by what it waited for."""
        return dict(self._waited_s)

    def fields(
        self, *, tokens: int, step_s: float, loss: float, waited_s: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Fields of the row of a step of so many tokens; the waiting counted so far is told and forgotten.

        `waited_s` is told in its place: that of the process which waited longest, where there are several.
        A save lies between two steps and counts in the row after it, so `checkpoint_stall_s` is no part of `step_s`.
        """
        tokens_per_s = tokens / step_s
        row = {
            "tokens_per_s": round(tokens_per_s, 1),
            "tokens_per_s_per_device": round(tokens_per_s / self.device_count, 1),
        }
        share = utilisation(self.flops_per_token, tokens_per_s, self.device_count, self.peak_flops_per_s)
        if share is not None:
            row["model_flops_utilisation"] = round(share, 5)
        if self.bytes_per_token is not None:
            row["bits_per_byte"] = loss / math.log(2) / self.bytes_per_token
        row |= {what: round(seconds, 6) for what, seconds in (waited_s or self._waited_s).items()}
        self._waited_s = dict.fromkeys(self._waited_s, 0.0)
        return row
