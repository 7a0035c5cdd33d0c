"""The schedule of sources: proportions at every scale, and counts that agree with the sequence itself."""

import random

import numpy as np
import pytest

from sidewinder.tokens.schedule import Schedule, floor_sum

BLENDS = [[0.7, 0.15, 0.15], [0.665, 0.1425, 0.1425, 0.05], [1.0], [0.999, 0.001], [1 / 3, 1 / 3, 1 / 3]]


@pytest.mark.parametrize("weights", BLENDS)
@pytest.mark.parametrize("offset", [0, 1, 2**63 + 12345, 2**64 - 1])
def test_proportions_within_a_thousandth_and_at_every_scale(weights: list[float], offset: int) -> None:
    sources = Schedule(weights, offset).sources(0, 100_000)
    for samples in (100, 1_000, 10_000, 100_000):
        shares = np.bincount(sources[:samples], minlength=len(weights)) / samples
        assert np.abs(shares - weights).max() < max(0.001, 3 / samples)


@pytest.mark.parametrize("weights", BLENDS)
def test_counts_agree_with_the_sequence(weights: list[float]) -> None:
    schedule = Schedule(weights, 987654321)
    sources = schedule.sources(0, 5_000)
    for samples in [0, 1, 2, 3, 17, 999, 1_000, 4_999, 5_000]:
        assert schedule.counts(samples) == list(np.bincount(sources[:samples], minlength=len(weights)))


def test_any_part_can_be_asked_for() -> None:
    schedule = Schedule([0.5, 0.3, 0.2], 42)
    whole = schedule.sources(0, 1_000)
    assert (schedule.sources(613, 200) == whole[613:813]).all()
    far = 10**12
    counts = np.array(schedule.counts(far + 500)) - schedule.counts(far)
    assert (np.bincount(schedule.sources(far, 500), minlength=3) == counts).all()
    assert sum(schedule.counts(far)) == far


def test_floor_sum_is_the_sum_of_floors() -> None:
    rng = random.Random(0)
    for _ in range(500):
        count, modulus = rng.randrange(40), rng.randrange(1, 50)
        slope, start = rng.randrange(100), rng.randrange(100)
        assert floor_sum(count, modulus, slope, start) == sum((slope * i + start) // modulus for i in range(count))
