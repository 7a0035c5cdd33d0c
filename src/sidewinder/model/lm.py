"""The language model: embedding, one pre-normed residual mixer a letter of the pattern, final norm, untied head.

Shapes: B batch, L length, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sidewinder.config.model import ModelConfig
from sidewinder.model.attention import Attention
from sidewinder.model.cache import Cache, LayerCache
from sidewinder.model.mamba1 import Mamba1
from sidewinder.model.mamba2 import Mamba2
from sidewinder.model.mlp import Mlp
from sidewinder.model.parts import Embedding, Head, make_norm

Mixer = Attention | Mamba1 | Mamba2 | Mlp
MIXERS: dict[str, type[Mixer]] = {"M": Mamba2, "m": Mamba1, "*": Attention, "-": Mlp}


class Layer(nn.Module):
    """x + mixer(norm(x)), but for the addition: the next norm makes it, in the pass that reads the sum anyway."""

    def __init__(self, letter: str, config: ModelConfig) -> None:
        super().__init__()
        self.norm = make_norm(config)
        self.mixer = MIXERS[letter](config)
        self.recompute = False
        """Whether the backward pass computes the activations again rather than find them in memory."""

    def forward(
        self,
        x_BLD: Tensor,
        update_BLD: Tensor | None = None,
        cache: LayerCache = None,
        resets_BL: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The residual stream, `update` added, and the mixer's output, which is still to be added."""
        if self.recompute and torch.is_grad_enabled():
            out_BLD: Tensor = checkpoint(self._sum, x_BLD, update_BLD, cache, resets_BL, use_reentrant=False)
            return out_BLD, None
        return self._parts(x_BLD, update_BLD, cache, resets_BL)

    def _sum(self, *inputs: Any) -> Tensor:
        """One tensor rather than two to keep until the backward pass."""
        x_BLD, update_BLD = self._parts(*inputs)
        return x_BLD + update_BLD

    def _parts(
        self, x_BLD: Tensor, update_BLD: Tensor | None, cache: LayerCache, resets_BL: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        tensor = self.mixer.tensor
        x_BLD, normed_BLD = self.norm.add(x_BLD, update_BLD)
        if tensor is None:
            return x_BLD, self.mixer(normed_BLD, cache, resets_BL)
        # Between the mixers each process holds a part of the sequence, and norms only that.
        return x_BLD, tensor.scatter(self.mixer(tensor.gather(normed_BLD), cache, resets_BL))


class LanguageModel(nn.Module):
    """Any of the four architectures. Weights are zero until `init_weights` or a checkpoint fills them.

    `resets_BL`, where given, is true at the first token of each document of a packed sequence; every layer then starts
    afresh there, so that each document gives what it would give alone.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.embedding = Embedding(vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(letter, config) for letter in config.layers)
        self.final_norm = make_norm(config)
        self.head = Head(config.hidden_size, vocab_size)

    @property
    def stack(self) -> list[Layer]:
        """The layers, first to last."""
        return cast("list[Layer]", list(self.layers))

    def forward(self, tokens_BL: Tensor, cache: Cache | None = None, resets_BL: Tensor | None = None) -> Tensor:
        """Logits (B, L, V) in float32 for tokens (B, L) int64."""
        return self.logits(self.hidden(tokens_BL, cache, resets_BL))

    def hidden(self, tokens_BL: Tensor, cache: Cache | None = None, resets_BL: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D) after the final norm. With a cache, the tokens continue those in it."""
        if cache is not None and resets_BL is not None:
            raise ValueError("packed documents are read whole: give a cache or resets, not both")
        if cache is not None:
            cache.check_room(tokens_BL.shape[1])
        x_BLD, update_BLD = self.embedding(tokens_BL), None
        for index, layer in enumerate(self.stack):
            x_BLD, update_BLD = layer(x_BLD, update_BLD, None if cache is None else cache.layers[index], resets_BL)
        if cache is not None:
            cache.tokens += tokens_BL.shape[1]
        return self.final_norm.add(x_BLD, update_BLD)[1]

    def logits(self, hidden_BLD: Tensor) -> Tensor:
        """Scores (…, V) of the next token from hidden states (…, D); float32 at least."""
        logits_BLV = self.head(hidden_BLD)
        return logits_BLV if logits_BLV.dtype == torch.float64 else logits_BLV.float()

    def loss(self, tokens_BL: Tensor, targets_BL: Tensor, resets_BL: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over targets (B, L) other than −100; all logits are never held at once."""
        return self.head.loss(self.hidden(tokens_BL, resets_BL=resets_BL), targets_BL)

    def new_cache(self, batch: int, max_tokens: int | None = None) -> Cache:
        """An empty decode cache for `batch` sequences of equal length, on the model's device and in its dtype.

        `max_tokens` bounds the attention buffers; asking for more raises SidewinderError.
        """
        like = self.embedding.weight.detach()
        return Cache([layer.mixer.new_cache(batch, like, max_tokens) for layer in self.stack])
