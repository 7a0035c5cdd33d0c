"""The blocked selective scan against the recurrence: outputs, final state, every gradient."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sidewinder.ops import linear_scan
from sidewinder.ops import selective_scan as module
from sidewinder.ops.selective_scan import selective_scan, selective_scan_reference

EXACT = 1e-12


def _inputs(randn, length, batch=2, channels=3, state=5):
    return [
        randn(batch, length, channels),
        torch.nn.functional.softplus(2 * randn(batch, length, channels)),
        -torch.exp(randn(channels, state)),
        randn(batch, length, state),
        randn(batch, length, state),
        randn(channels),
        randn(batch, channels, state),
    ]


def _forms(resets=None):
    def fast(x, dt, A, B, C, D, initial):
        return selective_scan(x, dt, A, B, C, D, initial_BDN=initial, resets_BL=resets)

    def plain(x, dt, A, B, C, D, initial):
        return selective_scan_reference(x, dt, A, B, C, D, initial_BDN=initial, resets_BL=resets)

    return fast, plain


@pytest.mark.parametrize("wide", [1, 1 << 30], ids=["walking", "pairs"])
@pytest.mark.parametrize("block", [1, 900, 1 << 30])
def test_every_way_through_a_block(wide, block, monkeypatch, randn, largest_error):
    monkeypatch.setattr(linear_scan, "WIDE", wide)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", block)
    fast, plain = _forms(torch.rand(2, 75) < 0.05)
    assert largest_error(fast, plain, _inputs(randn, 75)) < EXACT


def test_packed_documents_equal_separate_ones(randn):
    x, dt, A, B, C, D, _ = _inputs(randn, 90, batch=1)
    starts = [0, 1, 33, 64, 90]
    resets_BL = torch.zeros(1, 90, dtype=torch.bool)
    resets_BL[:, starts[:-1]] = True
    packed, final = selective_scan(x, dt, A, B, C, D, resets_BL=resets_BL)
    for a, b in pairwise(starts):
        alone, alone_final = selective_scan(x[:, a:b], dt[:, a:b], A, B[:, a:b], C[:, a:b], D)
        torch.testing.assert_close(packed[:, a:b], alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(final, alone_final, rtol=1e-12, atol=1e-12)


def test_two_halves_joined_by_their_state_equal_the_whole(randn):
    x, dt, A, B, C, D, initial = _inputs(randn, 77)
    whole, final = selective_scan(x, dt, A, B, C, D, initial_BDN=initial)
    first, state = selective_scan(x[:, :30], dt[:, :30], A, B[:, :30], C[:, :30], D, initial_BDN=initial)
    second, last = selective_scan(x[:, 30:], dt[:, 30:], A, B[:, 30:], C[:, 30:], D, initial_BDN=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, final, rtol=1e-12, atol=1e-12)


def test_float32_stays_close_and_finite_where_decays_are_extreme(randn):
    inputs = _inputs(randn, 300, batch=1)
    inputs[1] = torch.cat([inputs[1][:, :100] * 100, inputs[1][:, 100:200] * 1e-6, inputs[1][:, 200:] * 0], 1)
    plain, _ = selective_scan_reference(*inputs[:6])
    leaves = [part.float().requires_grad_() for part in inputs[:6]]
    fast, _ = selective_scan(*leaves)
    fast.square().sum().backward()
    assert float((fast.detach() - plain).norm() / plain.norm()) < 1e-5
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)
