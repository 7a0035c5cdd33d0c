"""What a model of a given configuration costs, exactly and without making it: parameters, FLOPs, cache bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from sidewinder.config.model import ModelConfig
from sidewinder.model.lm import LanguageModel
from sidewinder.model.pattern import LAYER_KINDS


@dataclass(frozen=True)
class Counts:
    """Parameters: all, all but the two embeddings, and by kind (a layer's own norm counts as the layer's)."""

    total: int
    non_embedding: int
    by_kind: dict[str, int]


@dataclass(frozen=True)
class CacheBytes:
    """Bytes of a decode cache: what each token adds, and what a sequence costs whatever its length."""

    per_token: int
    per_sequence: int

    def at(self, tokens: int, sequences: int = 1) -> int:
        """Bytes for `sequences` of `tokens` each."""
        return sequences * (self.per_sequence + tokens * self.per_token)


@lru_cache(maxsize=64)
def count_parameters(config: ModelConfig, vocab_size: int) -> Counts:
    """Exact counts, from the model itself made on the meta device (no memory is taken)."""
    with torch.device("meta"):
        model = LanguageModel(config, vocab_size)
    by_kind = {"embedding": _parameters(model.embedding), "head": _parameters(model.head)}
    by_kind["final_norm"] = _parameters(model.final_norm)
    for letter, layer in zip(config.layers, model.stack, strict=True):
        kind = LAYER_KINDS[letter]
        by_kind[kind] = by_kind.get(kind, 0) + _parameters(layer)
    total = sum(by_kind.values())
    return Counts(total, total - by_kind["embedding"] - by_kind["head"], by_kind)


def flops_per_token(config: ModelConfig, vocab_size: int, context: int, keys: float | None = None) -> int:
    """Floating-point operations of training on one token (forward, and twice that backward) at a context length.

    Counted: every matrix product with a weight, the head and the short convolutions; attention's two products over the
    `keys` that a token sees on average, which are (context + 1) / 2 unless documents are seen alone; operations per
    element of a scan's state: seven in Mamba-1, whose decay and input are every element's own, five in Mamba-2. Not
    counted: norms, activations, the optimizer, and what a chunked scan does beyond the recurrence.
    """
    keys = (context + 1) / 2 if keys is None else keys
    forward = 2 * config.hidden_size * vocab_size + sum(_layer_flops(letter, config, keys) for letter in config.layers)
    return round(3 * forward)


def _layer_flops(letter: str, config: ModelConfig, keys: float) -> float:
    hidden = config.hidden_size
    if letter == "*":
        sizes = config.attention
        projections = 2 * hidden * sizes.head_size * (2 * sizes.heads + 2 * sizes.kv_heads)
        return projections + 4 * sizes.heads * sizes.head_size * keys
    if letter == "-":
        return 2 * hidden * config.mlp.size * (3 if config.mlp.activation == "swiglu" else 2)
    if letter == "M":
        two = config.mamba2
        inner = hidden * two.expand
        convolved = inner + 2 * two.groups * two.state_size
        projections = 2 * hidden * (inner + convolved + inner // two.head_size) + 2 * inner * hidden
        return projections + 2 * two.conv_width * convolved + 5 * inner * two.state_size
    one = config.mamba1
    inner, rank = hidden * one.expand, one.dt_rank or -(-hidden // 16)
    projections = 2 * inner * (2 * hidden + (rank + 2 * one.state_size) + rank + hidden)
    return projections + 2 * one.conv_width * inner + 7 * inner * one.state_size


def cache_bytes(config: ModelConfig, *, element_bytes: int = 2, state_bytes: int = 4) -> CacheBytes:
    """Size of the decode cache: `element_bytes` for keys, values, convolution inputs; `state_bytes` for SSM states."""
    hidden, two, one, attention = config.hidden_size, config.mamba2, config.mamba1, config.attention
    per_token = per_sequence = 0
    for letter in config.layers:
        if letter == "*":
            per_token += 2 * attention.kv_heads * attention.head_size * element_bytes
        elif letter == "M":
            convolved = hidden * two.expand + 2 * two.groups * two.state_size
            per_sequence += (two.conv_width - 1) * convolved * element_bytes
            per_sequence += hidden * two.expand * two.state_size * state_bytes
        elif letter == "m":
            per_sequence += (one.conv_width - 1) * hidden * one.expand * element_bytes
            per_sequence += hidden * one.expand * one.state_size * state_bytes
    return CacheBytes(per_token, per_sequence)


def _parameters(module: torch.nn.Module) -> int:
    return sum(_sizes(module))


def _sizes(module: torch.nn.Module) -> Iterator[int]:
    return (parameter.numel() for parameter in module.parameters())
