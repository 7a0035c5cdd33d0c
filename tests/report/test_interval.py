"""95 % intervals against SciPy's, and where a formula for independent samples would mislead."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from sidewinder.report.interval import interval, wilson


@pytest.mark.parametrize(("right", "n"), [(0, 5), (3, 10), (40, 64), (64, 64), (1, 1000)])
def test_a_share_of_independent_samples(right: int, n: int) -> None:
    wanted = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right / n, n) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    share = right / n
    error = math.sqrt(share * (1 - share) / n)
    assert interval([share], error, n, is_share=True) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_questions_of_one_prompt_widen_it() -> None:
    """64 prompts whose four questions always agree are 64 samples, not 256."""
    error = math.sqrt(0.25 / 64)
    wanted = stats.binomtest(32, 64).proportion_ci(method="wilson")
    assert interval([0.5], error, 256, is_share=True) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


@pytest.mark.parametrize("seeds", [2, 3, 5, 11, 12, 40])
def test_seeds_give_students_interval(seeds: int) -> None:
    values = [2 + math.sin(7 * seed) for seed in range(seeds)]
    mean, error = math.fsum(values) / seeds, stats.sem(values)
    wanted = stats.t.interval(0.95, seeds - 1, loc=mean, scale=error)
    assert interval(values, None, None, is_share=False) == pytest.approx(wanted, rel=2e-3)


def test_equal_seeds_leave_what_the_samples_leave_open() -> None:
    low, high = interval([1.0, 1.0, 1.0], 0.0, 192, is_share=True) or (0, 0)
    assert (low, high) == pytest.approx(stats.binomtest(192, 192).proportion_ci(method="wilson"), abs=1e-6)
    assert interval([3.0], 0.5, None, is_share=False) == pytest.approx(stats.norm.interval(0.95, 3, 0.5))
    assert interval([3.0], None, None, is_share=False) is None


def test_a_share_stays_one() -> None:
    low, high = interval([0.0, 0.5, 1.0], 0.01, 300, is_share=True) or (9, 9)
    assert (low, high) == (0, 1)
