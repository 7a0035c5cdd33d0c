"""Packed documents give what each gives alone: logits, loss, gradients."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sidewinder.model import attention

STARTS = [0, 1, 2, 40, 64, 65, 130]


@pytest.fixture
def packed_starts() -> torch.Tensor:
    starts_BL = torch.zeros(1, STARTS[-1], dtype=torch.bool)
    starts_BL[:, STARTS[:-1]] = True
    return starts_BL


@pytest.mark.parametrize("query_block", [16, 1024])
def test_logits_equal(query_block, model, tokens_of, packed_starts, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", query_block)
    tokens_BL = tokens_of(1, STARTS[-1])
    with torch.no_grad():
        alone = torch.cat([model(tokens_BL[:, a:b]) for a, b in pairwise(STARTS)], dim=1)
        packed = model(tokens_BL, resets_BL=packed_starts)
    assert float((packed - alone).norm() / alone.norm()) < 1e-5


def test_gradients_equal(model, tokens_of, packed_starts):
    tokens_BL, targets_BL = tokens_of(1, STARTS[-1]), tokens_of(1, STARTS[-1]).flip(1)
    model.loss(tokens_BL, targets_BL, resets_BL=packed_starts).backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    for a, b in pairwise(STARTS):
        (model.loss(tokens_BL[:, a:b], targets_BL[:, a:b]) * (b - a) / STARTS[-1]).backward()
    for name, parameter in model.named_parameters():
        assert float((packed[name] - parameter.grad).norm()) < 2e-5 * float(parameter.grad.norm()) + 1e-7, name


def test_rows_may_start_documents_at_different_places(model, tokens_of):
    tokens_BL = tokens_of(2, 60)
    resets_BL = torch.zeros(2, 60, dtype=torch.bool)
    resets_BL[0, 25] = resets_BL[1, 47] = True
    with torch.no_grad():
        packed = model(tokens_BL, resets_BL=resets_BL)
        for row, cut in enumerate((25, 47)):
            alone = torch.cat([model(tokens_BL[row : row + 1, :cut]), model(tokens_BL[row : row + 1, cut:])], dim=1)
            assert float((packed[row] - alone[0]).norm() / alone.norm()) < 1e-5


def test_a_cache_and_documents_together_are_refused(model, tokens_of, packed_starts):
    with pytest.raises(ValueError, match="a cache or resets, not both"):
        model(tokens_of(1, STARTS[-1]), model.new_cache(1), packed_starts)
