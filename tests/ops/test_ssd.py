"""The chunked SSD against the recurrence: outputs, final state, every gradient."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sidewinder.ops import ssd as module
from sidewinder.ops.ssd import ssd, ssd_reference

EXACT = 1e-12


def _inputs(randn, length, groups=2, batch=2, heads=4, channels=3, state=5):
    return [
        randn(batch, length, heads, channels),
        torch.nn.functional.softplus(2 * randn(batch, length, heads)),
        -torch.exp(randn(heads)),
        randn(batch, length, groups, state),
        randn(batch, length, groups, state),
        randn(heads),
        randn(batch, heads, channels, state),
    ]


def _forms(chunk, resets=None):
    def fast(x, dt, A, B, C, D, initial):
        return ssd(x, dt, A, B, C, D, chunk=chunk, initial_BHPN=initial, resets_BL=resets)

    def plain(x, dt, A, B, C, D, initial):
        return ssd_reference(x, dt, A, B, C, D, initial_BHPN=initial, resets_BL=resets)

    return fast, plain


@pytest.mark.parametrize("length", [7, 100])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_equals_the_recurrence(length, groups, randn, largest_error):
    fast, plain = _forms(chunk=16)
    assert largest_error(fast, plain, _inputs(randn, length, groups)) < EXACT


def test_blocks_give_what_one_block_gives(monkeypatch, randn, largest_error):
    inputs = _inputs(randn, 200)
    fast, plain = _forms(chunk=8, resets=torch.rand(2, 200) < 0.05)
    for tokens in (1, 64, 100_000):
        monkeypatch.setattr(module, "BLOCK_TOKENS", tokens)
        assert largest_error(fast, plain, inputs) < EXACT


def test_packed_documents_equal_separate_ones(randn):
    x, dt, A, B, C, D, _ = _inputs(randn, 90, batch=1)
    starts = [0, 1, 33, 64, 90]
    resets_BL = torch.zeros(1, 90, dtype=torch.bool)
    resets_BL[:, starts[:-1]] = True
    packed, final = ssd(x, dt, A, B, C, D, chunk=16, resets_BL=resets_BL)
    for a, b in pairwise(starts):
        alone, alone_final = ssd(x[:, a:b], dt[:, a:b], A, B[:, a:b], C[:, a:b], D, chunk=16)
        torch.testing.assert_close(packed[:, a:b], alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(final, alone_final, rtol=1e-12, atol=1e-12)


def test_two_halves_joined_by_their_state_equal_the_whole(randn):
    x, dt, A, B, C, D, initial = _inputs(randn, 77)
    whole, final = ssd(x, dt, A, B, C, D, chunk=16, initial_BHPN=initial)
    first, state = ssd(x[:, :30], dt[:, :30], A, B[:, :30], C[:, :30], D, chunk=16, initial_BHPN=initial)
    second, last = ssd(x[:, 30:], dt[:, 30:], A, B[:, 30:], C[:, 30:], D, chunk=16, initial_BHPN=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, final, rtol=1e-12, atol=1e-12)


def test_float32_stays_close_and_finite_where_decays_are_extreme(randn):
    inputs = _inputs(randn, 300, batch=1)
    inputs[1] = torch.cat([inputs[1][:, :100] * 100, inputs[1][:, 100:200] * 1e-6, inputs[1][:, 200:] * 0], 1)
    plain, _ = ssd_reference(*inputs[:6])
    leaves = [part.float().requires_grad_() for part in inputs[:6]]
    fast, _ = ssd(*leaves, chunk=32)
    fast.square().sum().backward()
    # Exponents are differences of sums over a chunk, which reach 10⁴ here: float32 leaves them three digits.
    assert float((fast.detach() - plain).norm() / plain.norm()) < 2e-4
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_bfloat16_inputs_are_computed_in_float32(randn):
    inputs = [part.bfloat16() if place in (0, 3, 4) else part.float() for place, part in enumerate(_inputs(randn, 50))]
    y, state = ssd(*inputs[:6], chunk=16)
    plain, _ = ssd_reference(*(part.double() for part in inputs[:6]))
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert float((y.double() - plain).norm() / plain.norm()) < 4e-3
