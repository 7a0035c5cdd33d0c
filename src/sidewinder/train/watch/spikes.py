"""Loss spikes: a loss far above those of the last steps, told as a warning and never acted upon."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


class SpikeDetector:
    """Compares each loss with the median of the last `window` finite ones, in units of their spread.

    The spread is the median absolute deviation, scaled to a standard deviation, which earlier spikes hardly move; it is
    taken as at least a thousandth of the median, so that a loss which has come to rest is not watched for rounding.
    With 256 losses and a threshold of 4.5, normal noise gives a false warning in some 130,000 steps. While the loss
    still falls fast, the fall itself widens the spread and small jumps pass unseen.

    `losses` are the last ones of an earlier attempt.
    """

    def __init__(
        self, window: int = 256, threshold: float = 4.5, least: int = 32, losses: Iterable[float] = ()
    ) -> None:
        self.threshold, self.least = threshold, least
        self.losses: deque[float] = deque((loss for loss in losses if math.isfinite(loss)), maxlen=window)
        self._calm_steps = least

    def observe(self, loss: float) -> float | None:
        """How many deviations the loss of a step lies above the median, if a spike begins with it; else None.

        A spike is told once: it lasts until `least` losses in a row have stayed below the threshold.
        """
        if not math.isfinite(loss):
            return None
        deviations = self._deviations(loss)
        self.losses.append(loss)
        if deviations <= self.threshold:
            self._calm_steps += 1
            return None
        begins = self._calm_steps >= self.least
        self._calm_steps = 0
        return deviations if begins else None

    def _deviations(self, loss: float) -> float:
        if len(self.losses) < self.least:
            return 0.0
        middle = median(self.losses)
        spread = MAD_TO_SIGMA * median(abs(past - middle) for past in self.losses)
        return (loss - middle) / max(spread, 1e-3 * abs(middle), 1e-12)
