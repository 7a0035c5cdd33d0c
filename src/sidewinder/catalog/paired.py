"""Statistics of paired differences between two models that answered the same questions, cluster by cluster.

A cluster is what was drawn independently: a question, or all questions about one book. The value is a ratio of sums,
the differences over what they are counted in (questions, digits, bytes), or a weighted mean of such ratios, one for
each stratum.

Interval: with many clusters a paired bootstrap, whose percentiles are moved out so that they hold for normal
differences at any number of clusters (Hesterberg, The American Statistician 69, 2015: expanded percentile interval);
with few, Student's t of the linearised ratio, for a bootstrap of few values is too narrow. Test: signs of whole
clusters are flipped, which is exact for any number of clusters, but with n of them no p is below 2 / 2^n.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

ROUNDS = 10_000
SEED = 1
FEW_CLUSTERS = 50
"""With fewer in any stratum the interval is Student's."""
LEAST_CLUSTERS = 6
"""With fewer no p is below 0.05."""
EXACT_CLUSTERS = 13
"""Up to so many that differ, all combinations of signs are tried."""
BLOCK_VALUES = 2**22
"""Resampled values held at once (32 MiB)."""
ROUNDING = 1e-9
Z = NormalDist().inv_cdf(0.975)
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 97.5 % for 1, 2, … degrees of freedom."""


@dataclass(frozen=True)
class Stratum:
    """Clusters of one kind: differences_N (second minus first, summed) over wholes_N, weighted by `share`."""

    differences: np.ndarray
    wholes: np.ndarray
    share: float = 1.0


@dataclass(frozen=True)
class Difference:
    """Second minus first with its 95 % interval, which is None where all clusters differ alike, and with p."""

    value: float
    interval: tuple[float, float] | None
    p: float
    clusters: int


def student(freedom: float) -> float:
    """97.5 % quantile of Student's t, for whole degrees of freedom (others are rounded down); at most 0.01 too high."""
    whole = max(1, math.floor(freedom))
    return T[whole - 1] if whole <= len(T) else Z + 2.7 / whole


def difference(strata: Sequence[Stratum]) -> Difference:
    """The mean of the strata's ratios by their shares. Equal data give equal numbers, every time."""
    total = math.fsum(stratum.share for stratum in strata)
    shares = [stratum.share / total for stratum in strata]
    ratios = [float(stratum.differences.sum() / stratum.wholes.sum()) for stratum in strata]
    value = math.fsum(share * ratio for share, ratio in zip(shares, ratios, strict=True))
    parts = [share * stratum.differences / stratum.wholes.sum() for share, stratum in zip(shares, strata, strict=True)]
    clusters = [len(stratum.differences) for stratum in strata]
    variances = [share**2 * _variance(stratum) for share, stratum in zip(shares, strata, strict=True)]
    interval = _interval(strata, shares, value, variances) if min(clusters) > 1 else None
    return Difference(value, interval, sign_flip(np.concatenate(parts)), sum(clusters))


def _variance(stratum: Stratum) -> float:
    """Of a stratum's ratio (linearised); 0 for a single cluster, and where all differ alike."""
    count, whole = len(stratum.differences), float(stratum.wholes.sum())
    if count < 2:
        return 0.0
    rest = stratum.differences - stratum.differences.sum() / whole * stratum.wholes
    if np.abs(rest).max() <= ROUNDING * np.abs(stratum.differences).max():
        return 0.0
    return float(rest @ rest) * count / (count - 1) / whole**2


def _interval(
    strata: Sequence[Stratum], shares: Sequence[float], value: float, variances: Sequence[float]
) -> tuple[float, float] | None:
    if not any(variances):
        return None
    counts = [len(stratum.differences) for stratum in strata]
    squares = math.fsum(variance**2 / (count - 1) for variance, count in zip(variances, counts, strict=True))
    freedom = math.fsum(variances) ** 2 / squares  # Welch and Satterthwaite's.
    if min(counts) < FEW_CLUSTERS:
        half = student(freedom) * math.sqrt(math.fsum(variances))
        return value - half, value + half
    tail = NormalDist().cdf(-math.sqrt((freedom + 1) / freedom) * student(freedom))
    rng = np.random.default_rng(SEED)
    drawn = sum(share * _bootstrap(stratum, rng) for share, stratum in zip(shares, strata, strict=True))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _bootstrap(stratum: Stratum, rng: np.random.Generator) -> np.ndarray:
    """The ratio of every resample of the clusters."""
    count = len(stratum.differences)
    ratios = []
    for rounds in _blocks(count):
        drawn = rng.integers(0, count, (rounds, count))
        ratios.append(stratum.differences[drawn].sum(axis=1) / stratum.wholes[drawn].sum(axis=1))
    return np.concatenate(ratios)


def sign_flip(parts: np.ndarray) -> float:
    """Two-sided p of "either model could have given either answer": how often random signs give as large a sum.

    Exact for few clusters; else (k + 1) / (R + 1) of R random flips, so that it is never 0.
    """
    parts = parts[parts != 0]
    seen = abs(float(parts.sum())) - ROUNDING * float(np.abs(parts).sum())
    if len(parts) <= EXACT_CLUSTERS:
        combinations = np.arange(2 ** len(parts))[:, None] >> np.arange(len(parts)) & 1
        return float((np.abs((2 * combinations - 1) @ parts) >= seen).mean())
    rng = np.random.default_rng(SEED)
    flips = (2.0 * rng.integers(0, 2, (rounds, len(parts)), np.int8) - 1 for rounds in _blocks(len(parts)))
    larger = sum(int((np.abs(signs @ parts) >= seen).sum()) for signs in flips)
    return (larger + 1) / (ROUNDS + 1)


def _blocks(count: int) -> Iterator[int]:
    """ROUNDS in parts whose values fit in memory."""
    block = max(1, BLOCK_VALUES // count)
    for start in range(0, ROUNDS, block):
        yield min(block, ROUNDS - start)
