"""Both ways of the in-place recurrence, both directions, against the plain loop."""

from __future__ import annotations

import pytest
import torch

from sidewinder.ops import linear_scan
from sidewinder.ops.linear_scan import scan_backward_, scan_forward_


@pytest.mark.parametrize("wide", [1, 1 << 30], ids=["walking", "pairs"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 13, 64, 101])
def test_equals_the_loop(wide, length, monkeypatch, randn):
    monkeypatch.setattr(linear_scan, "WIDE", wide)
    a_TX, b_TX = torch.rand(length, 3, dtype=torch.float64), randn(length, 3)
    forward, backward = b_TX.clone(), b_TX.clone()
    for t in range(1, length):
        forward[t] += a_TX[t] * forward[t - 1]
        backward[length - 1 - t] += a_TX[length - 1 - t] * backward[length - t]
    untouched = a_TX.clone()
    torch.testing.assert_close(scan_forward_(a_TX, b_TX.clone()), forward)
    torch.testing.assert_close(scan_backward_(a_TX[: max(1, length - 1)], b_TX.clone()), backward)
    assert torch.equal(a_TX, untouched)


def test_decays_may_be_shared_by_the_numbers_of_a_position(randn):
    a_T11, b_TXY = torch.rand(21, 1, 1, dtype=torch.float64), randn(21, 2, 3)
    found = scan_forward_(a_T11, b_TXY.clone())
    torch.testing.assert_close(found, scan_forward_(a_T11.expand_as(b_TXY).clone(), b_TXY.clone()))
