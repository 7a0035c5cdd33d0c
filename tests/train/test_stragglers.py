"""Processes that are slower than the others are found."""

from __future__ import annotations

import pytest
import torch

from sidewinder.train.watch import StragglerWatch, stragglers
from sidewinder.train.watch.stragglers import late_for_data, probe_s


def test_stragglers_are_slower_than_most() -> None:
    assert stragglers([1.0, 1.02, 0.98, 1.19]) == []
    assert stragglers([1.0, 1.3, 0.98, 1.21, 1.0, 1.01]) == [1, 3]
    assert stragglers([1.0, 2.0]) == [1]
    assert stragglers([1.0]) == []


def test_waiting_for_data_is_told_where_it_matters() -> None:
    assert late_for_data([0.1, 9.0, 0.1, 0.2], elapsed_s=100) == [1]
    assert late_for_data([0.1, 4.0, 0.1, 0.2], elapsed_s=100) == []
    assert late_for_data([9.0, 9.0, 9.1, 9.0], elapsed_s=100) == [], "all wait alike: nobody holds back the others"
    watch = StragglerWatch(every_steps=100)
    told = [(step, watch.check(step, [1.0, 1.0, 1.5 if step > 50 else 1.0])) for step in range(0, 400, 10)]
    assert [step for step, found in told if found] == [60, 160, 260, 360]


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
def test_probe_times_something(device: str) -> None:
    assert probe_s(torch.device(device)) > 0
