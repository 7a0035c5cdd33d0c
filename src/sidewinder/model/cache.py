"""What a model remembers of the tokens it has read, so that text can be continued without reading it again.

Shapes: B batch, S = conv width − 1, C convolved channels, K key-value heads, T tokens there is room for, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sidewinder.errors import SidewinderError

GROWTH_TOKENS = 256
"""Room that an attention cache adds at least; at most it doubles, up to GROWTH_LIMIT_TOKENS at a time."""
GROWTH_LIMIT_TOKENS = 4096


@dataclass
class ScanCache:
    """A Mamba layer's memory, of fixed size: the last inputs of its convolution (B, S, C) and its state."""

    conv: Tensor
    state: Tensor

    def select(self, rows: Tensor) -> ScanCache:
        """A cache of these sequences of the batch, in this order; one may be taken several times."""
        return ScanCache(self.conv[rows], self.state[rows])


class AttentionCache:
    """An attention layer's keys and values, in buffers that grow in bounded steps."""

    def __init__(self, batch: int, kv_heads: int, head_size: int, like: Tensor, max_tokens: int | None) -> None:
        self.length = 0
        self.max_tokens = max_tokens
        self._buffer_2BKTE = like.new_empty(2, batch, kv_heads, 0, head_size)

    def append(self, keys_BKLE: Tensor, values_BKLE: Tensor) -> tuple[Tensor, Tensor]:
        """Adds tokens; returns all keys and values so far, as views of the buffer (B, K, length, E)."""
        end = self.length + keys_BKLE.shape[2]
        self.check_room(end)
        self._make_room(end)
        self._buffer_2BKTE[0, :, :, self.length : end] = keys_BKLE
        self._buffer_2BKTE[1, :, :, self.length : end] = values_BKLE
        self.length = end
        return self._buffer_2BKTE[0, :, :, :end], self._buffer_2BKTE[1, :, :, :end]

    def check_room(self, tokens: int) -> None:
        """Raises SidewinderError where so many tokens may not be held."""
        if self.max_tokens is not None and tokens > self.max_tokens:
            raise SidewinderError(
                f"the decode cache was made for {self.max_tokens} tokens and is asked to hold {tokens}",
                remedy="make it with a larger max_tokens, or shorten the prompt",
            )

    def select(self, rows: Tensor) -> AttentionCache:
        """A cache of these sequences of the batch, in this order; one may be taken several times."""
        chosen = AttentionCache.__new__(AttentionCache)
        chosen.length, chosen.max_tokens = self.length, self.max_tokens
        chosen._buffer_2BKTE = self._buffer_2BKTE[:, rows, :, : self.length]
        return chosen

    def _make_room(self, tokens: int) -> None:
        room = self._buffer_2BKTE.shape[3]
        if tokens <= room:
            return
        room = max(tokens, room + min(max(room, GROWTH_TOKENS), GROWTH_LIMIT_TOKENS))
        room = room if self.max_tokens is None else min(room, self.max_tokens)
        two, batch, heads, _, size = self._buffer_2BKTE.shape
        grown_2BKTE = self._buffer_2BKTE.new_empty(two, batch, heads, room, size)
        grown_2BKTE[:, :, :, : self.length] = self._buffer_2BKTE[:, :, :, : self.length]
        self._buffer_2BKTE = grown_2BKTE


LayerCache = ScanCache | AttentionCache | None


@dataclass
class Cache:
    """One cache a layer (None for an MLP) and the number of tokens read so far."""

    layers: list[LayerCache]
    tokens: int = field(default=0)

    def check_room(self, tokens: int) -> None:
        """Raises SidewinderError where an attention layer has no room for so many more tokens, before any moves on."""
        for layer in self.layers:
            if isinstance(layer, AttentionCache):
                layer.check_room(self.tokens + tokens)

    def select(self, rows: Tensor) -> Cache:
        """A cache of these sequences of the batch (places in it), in this order; one may be taken several times.

        So a text that several texts begin with is read once.
        """
        return Cache([layer.select(rows) if layer else None for layer in self.layers], self.tokens)

    def nbytes(self) -> int:
        """Bytes held, the unused room of the attention buffers included."""
        tensors: list[Tensor] = []
        for layer in self.layers:
            if isinstance(layer, ScanCache):
                tensors += [layer.conv, layer.state]
            elif isinstance(layer, AttentionCache):
                tensors.append(layer._buffer_2BKTE)
        return sum(tensor.nbytes for tensor in tensors)


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """States are sums over all tokens read, so they are kept in float32 at least."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32
