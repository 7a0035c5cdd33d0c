"""Packed documents give what each gives alone: logits, loss, gradients of weights and inputs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sidewinder.model import attention

# Chunks are 16 long: documents of one token, at a chunk's border and across several, and one at the very end.
BORDERS = [0, 1, 2, 40, 64, 65, 129, 130]


@pytest.fixture(params=[True, False], ids=["first marked", "first not marked"])
def resets(request: pytest.FixtureRequest) -> torch.Tensor:
    """Whether the first token is marked or not, a document begins there."""
    resets_BL = torch.zeros(1, BORDERS[-1], dtype=torch.bool)
    resets_BL[:, BORDERS[:-1]] = True
    resets_BL[:, 0] = request.param
    return resets_BL


@pytest.mark.parametrize("query_block", [16, 1024])
def test_logits_equal(query_block, model, tokens_of, resets, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", query_block)
    tokens_BL = tokens_of(1, BORDERS[-1])
    with torch.no_grad():
        packed = model(tokens_BL, resets_BL=resets)
        for a, b in pairwise(BORDERS):
            alone = model(tokens_BL[:, a:b])
            assert float((packed[:, a:b] - alone).norm() / alone.norm()) < 1e-5, (a, b)


def test_gradients_equal(model, tokens_of, resets):
    tokens_BL, targets_BL = tokens_of(1, BORDERS[-1]), tokens_of(1, BORDERS[-1]).flip(1)
    embedded: list[torch.Tensor] = []

    def watch(module, inputs, output):
        output.retain_grad()
        embedded.append(output)

    model.embedding.register_forward_hook(watch)
    model.loss(tokens_BL, targets_BL, resets_BL=resets).backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    packed_BLD = embedded.pop().grad
    model.zero_grad(set_to_none=True)
    for a, b in pairwise(BORDERS):
        (model.loss(tokens_BL[:, a:b], targets_BL[:, a:b]) * (b - a) / BORDERS[-1]).backward()
        alone_BLD = embedded.pop().grad
        assert float((packed_BLD[:, a:b] - alone_BLD).norm() / alone_BLD.norm()) < 2e-5, (a, b)
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


def test_a_cache_and_documents_together_are_refused(model, tokens_of):
    with pytest.raises(ValueError, match="a cache or resets, not both"):
        model(tokens_of(1, 9), model.new_cache(1), torch.zeros(1, 9, dtype=torch.bool))
