"""Continuing through a cache equals reading everything at once, for every architecture."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sidewinder.config.model import Attention, ModelConfig
from sidewinder.errors import SidewinderError
from sidewinder.model import LanguageModel, cache_bytes
from sidewinder.model.cache import AttentionCache

TOKENS = 300
BFLOAT16 = 1e-2
"""Between the two ways of reading in bfloat16, which round in other places; each is up to 1.5e-2 from float32."""


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _decode(model: LanguageModel, tokens_BL: torch.Tensor, prompt: int) -> torch.Tensor:
    """Logits (B, L, V) of a prompt read at once and of the other tokens read one by one."""
    cache = model.new_cache(len(tokens_BL))
    pieces = [tokens_BL[:, :prompt], *tokens_BL[:, prompt:].split(1, dim=1)]
    logits_BLV = torch.cat([model(piece, cache) for piece in pieces if piece.numel()], dim=1)
    assert cache.tokens == tokens_BL.shape[1]
    return logits_BLV


@torch.no_grad()
@pytest.mark.parametrize(("prompt", "batch"), [(0, 1), (37, 3)])
def test_single_tokens_equal_the_full_pass(prompt, batch, model, tokens_of):
    tokens_BL = tokens_of(batch, TOKENS)
    assert _error(_decode(model, tokens_BL, prompt), model(tokens_BL)) < 1e-5


@torch.no_grad()
def test_single_tokens_in_bfloat16(config, make_model, tokens_of):
    model, tokens_BL = make_model(config), tokens_of(2, TOKENS)
    exact_BLV = model(tokens_BL)
    model.bfloat16()
    full_BLV, stepped_BLV = model(tokens_BL), _decode(model, tokens_BL, 37)
    assert _error(stepped_BLV, full_BLV) < BFLOAT16
    assert _error(stepped_BLV, exact_BLV) < 1.1 * _error(full_BLV, exact_BLV)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[0, 1, 300], [0, 33, 34, 35, 150, 300], [0, 299, 300], [0, 2, 4, 300]])
def test_pieces_of_any_length_equal_the_full_pass(cuts, model, tokens_of):
    tokens_BL = tokens_of(2, TOKENS)
    cache = model.new_cache(2, max_tokens=TOKENS)
    parts = [model(tokens_BL[:, a:b], cache) for a, b in pairwise(cuts)]
    assert _error(torch.cat(parts, dim=1), model(tokens_BL)) < 1e-5


@torch.no_grad()
def test_cache_has_the_size_that_was_foretold(config, model, tokens_of):
    cache = model.new_cache(3, max_tokens=50)
    model(tokens_of(3, 50), cache)
    assert cache.nbytes() == cache_bytes(config, element_bytes=4, state_bytes=4).at(50, sequences=3)


def test_buffers_grow_in_bounded_steps():
    cache = AttentionCache(1, 2, 4, torch.zeros(1), None)
    rooms = set()
    for _ in range(150):
        keys, values = cache.append(torch.ones(1, 2, 100, 4), torch.ones(1, 2, 100, 4))
        rooms.add(cache._buffer_2BKTE.shape[3])
    assert keys.shape == values.shape == (1, 2, 15_000, 4)
    assert torch.equal(keys, torch.ones_like(keys))
    assert all(room - 15_000 <= 4096 for room in rooms)
    assert len(rooms) < 12


@torch.no_grad()
def test_a_full_cache_says_so(make_model):
    config = ModelConfig(pattern="*", hidden_size=8, attention=Attention(heads=1, kv_heads=1, head_size=8))
    model = make_model(config)
    cache = model.new_cache(1, max_tokens=10)
    model(torch.zeros(1, 10, dtype=torch.int64), cache)
    with pytest.raises(SidewinderError, match="made for 10 tokens and is asked to hold 11"):
        model(torch.zeros(1, 1, dtype=torch.int64), cache)


def test_training_leaves_no_cache_behind(model, tokens_of, monkeypatch):
    monkeypatch.setattr(LanguageModel, "new_cache", None)
    model.loss(tokens_of(2, 40), tokens_of(2, 40)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
