"""The blocked cross-entropy against the definition with all logits."""

from __future__ import annotations

import pytest
import torch

from sidewinder.ops import cross_entropy as module
from sidewinder.ops.cross_entropy import cross_entropy, cross_entropy_reference

EXACT = 1e-12


@pytest.mark.parametrize("block_bytes", [1, 8 * 50 * 7, 1 << 30])
@pytest.mark.parametrize("tokens", [1, 7, 20])
def test_equals_the_definition(block_bytes, tokens, monkeypatch, randn, largest_error):
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    targets_T = torch.randint(0, 50, (tokens,))
    targets_T[1::3] = -100
    inputs = [randn(tokens, 6), randn(50, 6)]
    found, expected = (
        (lambda h, w: 3 * cross_entropy(h, w, targets_T)),
        (lambda h, w: 3 * cross_entropy_reference(h, w, targets_T)),
    )
    assert largest_error(found, expected, inputs) < EXACT


def test_is_exact_where_probabilities_underflow():
    hidden_TD = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    weight_VD = torch.tensor([[1.0], [0.0], [-1.0]])
    loss = cross_entropy(hidden_TD, weight_VD, torch.tensor([2, 1]))
    assert float(loss.detach()) == (2000 + 1000) / 2
    loss.backward()
    assert hidden_TD.grad.tolist() == [[1.0], [-0.5]]


def test_all_targets_ignored_is_zero_loss_and_zero_gradient(randn):
    hidden_TD = randn(5, 4).requires_grad_()
    loss = cross_entropy(hidden_TD, randn(9, 4), torch.full((5,), -100))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(hidden_TD.grad.abs().max()) == 0


def test_without_gradient_the_value_is_the_same(randn):
    hidden_TD, weight_VD, targets_T = randn(30, 4).requires_grad_(), randn(9, 4), torch.randint(0, 9, (30,))
    with torch.no_grad():
        alone = cross_entropy(hidden_TD, weight_VD, targets_T)
    assert torch.equal(alone, cross_entropy(hidden_TD, weight_VD, targets_T).detach())
