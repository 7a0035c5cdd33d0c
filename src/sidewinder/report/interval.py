"""95 % intervals of scores, for curves: what another draw of samples, or of seeds, would probably give."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sidewinder.catalog.paired import Z, student


def interval(
    values: Sequence[float], stderr: float | None, n: int | None, is_share: bool
) -> tuple[float, float] | None:
    """(low, high) of the mean of `values`, one for each seed; None where nothing tells.

    `stderr` is the standard error over samples of one seed, on average, and `n` the samples of all. Over several seeds
    it is Student's t interval, but never narrower than what the samples alone leave open. That of a share stays within
    0 and 1.
    """
    seeds = len(values)
    mean = math.fsum(values) / seeds
    spans = []
    if is_share and n and 0 <= mean <= 1:
        spans.append(wilson(mean, _independent(mean, None if stderr is None else stderr / math.sqrt(seeds), n)))
    elif stderr is not None:
        spans.append(_around(mean, Z * stderr / math.sqrt(seeds)))
    if seeds > 1:
        variance = math.fsum((value - mean) ** 2 for value in values) / (seeds - 1)
        spans.append(_around(mean, student(seeds - 1) * math.sqrt(variance / seeds)))
    if not spans:
        return None
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    return (max(low, 0.0), min(high, 1.0)) if is_share else (low, high)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` independent samples; it has a width at 0 and 1 too."""
    centre, scale = share + Z * Z / (2 * n), 1 + Z * Z / n
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (centre - half) / scale, (centre + half) / scale


def _independent(share: float, stderr: float | None, n: int) -> float:
    """As many independent samples as would have this standard error: fewer than `n` where questions share a prompt.

    All right or all wrong, the samples do not tell; they then count as they are.
    """
    variance = share * (1 - share)
    return min(n, variance / stderr**2) if stderr and variance > 0 else n


def _around(mean: float, half: float) -> tuple[float, float]:
    return mean - half, mean + half
