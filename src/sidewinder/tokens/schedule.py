"""Which source each sample of training comes from: fixed shares, evenly spread, computable for any sample at once.

Sample i falls on the point (i·G + offset) mod 2^64 of a circle that the sources share by weight. With G/2^64 the golden
ratio, the points spread as evenly as points can: after n samples each source has had its share of them but for a few
(the discrepancy grows as log n). How many of the first n fell on an arc is a sum of floors, found in O(log n) steps:
so the loader needs no table and no state.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate

import numpy as np

CIRCLE = 1 << 64
GOLDEN = 0x9E3779B97F4A7C15  # The odd number nearest to 2^64 / 1.618…


class Schedule:
    """Sources of an endless sequence of samples; `offset` (0 to 2^64) turns the circle."""

    def __init__(self, weights: list[float], offset: int) -> None:
        shares = [Fraction(weight) for weight in weights]
        total = sum(shares)
        self.offset = offset % CIRCLE
        self.ends = [int(end / total * CIRCLE) for end in accumulate(shares)]

    def sources(self, first: int, count: int) -> np.ndarray:
        """Source (its place in `weights`) of samples first … first + count - 1."""
        start = np.uint64((first * GOLDEN + self.offset) % CIRCLE)
        points = start + np.arange(count, dtype=np.uint64) * np.uint64(GOLDEN)  # Wraps around, as it should.
        return np.searchsorted(np.array(self.ends[:-1], dtype=np.uint64), points, side="right")

    def counts(self, samples: int) -> list[int]:
        """How many of the first `samples` samples each source has.

        floor(x / M) - floor((x - end) / M) is 1 where x mod M < end, and 0 elsewhere.
        """
        upper = floor_sum(samples, CIRCLE, GOLDEN, self.offset) + samples
        below = [upper - floor_sum(samples, CIRCLE, GOLDEN, self.offset + CIRCLE - end) for end in self.ends]
        return [end - start for start, end in zip([0, *below], below, strict=False)]


def floor_sum(count: int, modulus: int, slope: int, start: int) -> int:
    """Sum of floor((slope·i + start) / modulus) for i from 0 to count - 1, in O(log modulus) steps.

    Whole parts of slope and start are summed directly; the rest is the number of lattice points under a line, which
    equals that under the line with its axes exchanged, a smaller problem of the same kind (as in Euclid's algorithm).
    """
    total = 0
    while count:
        total += count * (count - 1) // 2 * (slope // modulus) + count * (start // modulus)
        slope, start = slope % modulus, start % modulus
        count, start = divmod(slope * count + start, modulus)
        modulus, slope = slope, modulus
    return total
