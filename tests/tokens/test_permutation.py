"""Shuffles that are computed: bijections of every length, uniform, and the same for ever."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sidewinder.tokens.permutation import Permutation

LENGTHS = [*range(1, 70), 97, 127, 128, 129, 251, 255, 256, 257, 1_000, 1_021, 4_095, 4_096, 4_097, 65_537, 99_991]


@pytest.mark.parametrize("length", LENGTHS)
def test_each_number_once(length: int) -> None:
    assert (np.sort(Permutation(length, "seed")(np.arange(length))) == np.arange(length)).all()


def test_any_place_can_be_asked_for_at_once_and_never_changes() -> None:
    whole = Permutation(1_000, 1, "a", 0)(np.arange(1_000))
    picked = np.array([999, 3, 3, 512])
    assert (Permutation(1_000, 1, "a", 0)(picked) == whole[picked]).all()
    assert Permutation(10, 1, "a", 0)(np.arange(10)).tolist() == [2, 5, 7, 0, 1, 4, 8, 9, 6, 3]
    far = Permutation(10**15, 1)(np.array([0, 10**15 - 1])).tolist()
    assert far == [576371986810063, 711310216166266], "a changed order would change every run"
    assert not (whole == Permutation(1_000, 2, "a", 0)(np.arange(1_000))).all()


@pytest.mark.parametrize("length", [5, 7, 10, 50])
def test_over_seeds_every_place_and_every_pair_is_equally_likely(length: int) -> None:
    """Chi-square, as deviations of a normal variable; the seeds are fixed."""
    seeds, places = 5_000, np.arange(length)
    counts, pairs = np.zeros((length, length)), np.zeros((length, length))
    for seed in range(seeds):
        order = Permutation(length, seed)(places)
        counts[places, order] += 1
        pairs[order[0], order[1]] += 1
    apart = pairs[~np.eye(length, dtype=bool)]
    assert abs(deviations(counts, (length - 1) ** 2)) < 4
    assert abs(deviations(apart, len(apart) - 1)) < 4
    assert pairs.trace() == 0


@pytest.mark.parametrize("length", [100_003, 1 << 17, 10**6])
def test_over_places_it_looks_like_a_shuffle(length: int) -> None:
    order = Permutation(length, 5)(np.arange(length))
    table, *_ = np.histogram2d(np.arange(length), order, bins=20)
    assert abs(deviations(table, 19 * 19)) < 4
    steps, _ = np.histogram(np.diff(order) % length, bins=100, range=(0, length))
    assert abs(deviations(steps, 99)) < 4
    assert sum(after - before == 1 for before, after in itertools.pairwise(order.tolist())) < 10


def deviations(counts: np.ndarray, freedom: int) -> float:
    """How far chi-square of equally likely counts lies from its mean, in standard deviations."""
    expected = counts.mean()
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))
