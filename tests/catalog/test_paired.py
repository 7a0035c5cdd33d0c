"""Intervals of paired differences hold as often as they say, for few clusters too, and p is exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from sidewinder.catalog import paired
from sidewinder.catalog.paired import Stratum, difference, sign_flip, student

Draw = Callable[[np.random.Generator, int], np.ndarray]
NORMAL: Draw = lambda rng, count: rng.normal(0.3, 1.0, count)  # noqa: E731
ANSWERS: Draw = lambda rng, count: rng.choice([-1.0, 0.0, 1.0], count, p=[0.2, 0.3, 0.5])  # noqa: E731
MEAN = 0.3  # Of both.
STUDIES = 500  # Simulated; the standard error of a coverage of 95 % is then 1 %.


def of(*values: float) -> Stratum:
    return Stratum(np.array(values), np.ones(len(values)))


@pytest.mark.parametrize("clusters", [3, 5, 16, 64])
@pytest.mark.parametrize("draw", [NORMAL, ANSWERS], ids=["normal", "answers"])
def test_intervals_cover_the_truth(draw: Draw, clusters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three answers can only be covered too often: alike they give no interval, else it is wide."""
    monkeypatch.setattr(paired, "ROUNDS", 1000)
    rng = np.random.default_rng(7)
    found = [difference([Stratum(draw(rng, clusters), np.ones(clusters))]) for _ in range(STUDIES)]
    held = np.mean([one.interval is None or one.interval[0] <= MEAN <= one.interval[1] for one in found])
    assert held >= 0.92
    assert held <= (1.0 if draw is ANSWERS and clusters < 6 else 0.98)


def test_strata_keep_their_shares_and_cover_the_truth() -> None:
    """Sources of 4 and 12 documents, whose sizes and spreads differ, at shares of 30 and 70 %."""
    rng = np.random.default_rng(3)
    truth, held = 0.3 * 0.5 + 0.7 * -0.2, 0
    for _ in range(STUDIES):
        strata = []
        for share, mean, count, spread in ((3, 0.5, 4, 1.0), (7, -0.2, 12, 0.3)):
            sizes = rng.uniform(50, 150, count)
            strata.append(Stratum(sizes * rng.normal(mean, spread, count), sizes, share))
        low, high = difference(strata).interval or (0.0, 0.0)
        held += low <= truth <= high
    assert held / STUDIES == pytest.approx(0.955, abs=0.025)


def test_many_clusters_are_resampled_together() -> None:
    rng = np.random.default_rng(3)
    books = rng.normal(size=100)
    alone = difference([Stratum(np.repeat(books, 4), np.ones(400))])
    together = difference([Stratum(4 * books, np.full(100, 4.0))])
    assert alone.value == pytest.approx(together.value)
    assert (alone.clusters, together.clusters) == (400, 100)
    assert alone.interval
    assert together.interval
    assert (together.interval[1] - together.interval[0]) / (alone.interval[1] - alone.interval[0]) == pytest.approx(
        2, rel=0.1
    )
    assert difference([Stratum(4 * books, np.full(100, 4.0))]) == together  # The same every time.
    skewed = difference([Stratum(np.exp(2 * books), np.ones(100))])
    assert skewed.interval  # Of resamples, so that it leans to the side of the rare large values; Student's does not.
    assert skewed.interval[1] - skewed.value > 1.2 * (skewed.value - skewed.interval[0])


def test_a_ratio_is_that_of_the_sums() -> None:
    found = difference([Stratum(np.array([1.0, 8.0]), np.array([1.0, 2.0]))])
    assert found.value == 3.0
    assert found.interval
    # Residuals -2 and 2, linearised: their spread over the sum of wholes, by Student's t of one degree of freedom.
    error = np.sqrt(2 * (2.0**2 + 2.0**2)) / 3
    assert found.interval == pytest.approx((3 - 12.706 * error, 3 + 12.706 * error))


def test_where_all_differ_alike_nothing_tells_the_spread() -> None:
    assert difference([of(0.1, 0.1, 0.1)]).interval is None
    assert difference([of(0.25)]).interval is None
    assert difference([of(0.0, 0.0)]).p == 1.0


@pytest.mark.parametrize("clusters", [1, 2, 3, 5, 6, 9])
def test_p_is_the_share_of_signs_that_give_as_much(clusters: int) -> None:
    values = np.random.default_rng(clusters).normal(0.5, 1.0, clusters)
    sums = [abs(np.dot(signs, values)) for signs in product((-1, 1), repeat=clusters)]
    assert sign_flip(values) == np.mean([one >= abs(values.sum()) - 1e-12 for one in sums])
    assert sign_flip(np.abs(values)) == 2 / 2**clusters
    assert (sign_flip(np.abs(values)) < 0.05) == (clusters >= paired.LEAST_CLUSTERS)
    assert sign_flip(np.concatenate([values, np.zeros(30)])) == sign_flip(values)  # Equal answers tell nothing.


def test_p_of_many_clusters_is_drawn_and_never_zero() -> None:
    assert sign_flip(np.ones(100)) == 1 / (paired.ROUNDS + 1)
    one_sided = np.array([1.0] * 10 + [-1.0] * 4)
    exact = 2 * sum(math.comb(14, wrong) for wrong in range(5)) / 2**14  # The sign test's.
    assert sign_flip(one_sided) == pytest.approx(exact, abs=0.015)


def test_p_rejects_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    for clusters in (6, 16):
        p = [sign_flip(rng.standard_t(3, clusters)) for _ in range(STUDIES)]
        assert np.mean(np.array(p) <= 0.05) <= 0.075


def test_students_t() -> None:
    assert student(1) == 12.706
    assert student(2.9) == 4.303
    for freedom, quantile in ((11, 2.2010), (19, 2.0930), (63, 1.9983)):  # Printed tables.
        assert quantile <= student(freedom) <= quantile + 0.01
