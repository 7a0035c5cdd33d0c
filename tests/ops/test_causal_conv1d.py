"""The convolution against its token-by-token definition and torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sidewinder.ops.causal_conv1d import causal_conv1d, causal_conv1d_reference, token_age

EXACT = 1e-12


def _forms(silu, resets=None, with_initial=True):
    def given(operation):
        def call(x, weight, bias, *initial):
            state = initial[0] if with_initial else None
            return operation(x, weight, bias, silu=silu, initial_BSC=state, resets_BL=resets)

        return call

    return given(causal_conv1d), given(causal_conv1d_reference)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 64, 131])
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("silu", [True, False])
def test_equals_the_definition(length, width, silu, randn, largest_error):
    inputs = [randn(2, length, 6), randn(6, 1, width), randn(6)]
    assert largest_error(*_forms(silu, with_initial=False), inputs) < EXACT
    inputs.append(randn(2, width - 1, 6))
    assert largest_error(*_forms(silu), inputs) < EXACT
    for share in (0.1, 0.5):
        resets_BL = torch.rand(2, length) < share
        assert largest_error(*_forms(silu, resets_BL), inputs) < EXACT


def test_equals_torch(randn):
    x_BLC, weight_C1W, bias_C = randn(2, 50, 6), randn(6, 1, 4), randn(6)
    expected = F.conv1d(F.pad(x_BLC.mT, (3, 0)), weight_C1W, bias_C, groups=6).mT
    torch.testing.assert_close(causal_conv1d(x_BLC, weight_C1W, bias_C, silu=False)[0], expected)


def test_continues_from_its_final_state(randn):
    x_BLC, weight_C1W, bias_C = randn(2, 20, 6), randn(6, 1, 4), randn(6)
    resets_BL = torch.zeros(2, 20, dtype=torch.bool)
    resets_BL[0, 11] = resets_BL[1, 9] = True
    whole, final = causal_conv1d(x_BLC, weight_C1W, bias_C, resets_BL=resets_BL)
    first, state = causal_conv1d(x_BLC[:, :12], weight_C1W, bias_C, resets_BL=resets_BL[:, :12])
    second, last = causal_conv1d(x_BLC[:, 12:], weight_C1W, bias_C, initial_BSC=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, final)


def test_age_counts_from_the_last_reset():
    resets_BL = torch.tensor([[False, True, False, False, True, False]])
    assert token_age(resets_BL)[0, 1:].tolist() == [0, 1, 2, 0, 1]
    assert token_age(resets_BL)[0, 0] > 1_000_000
