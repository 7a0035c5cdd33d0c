"""Small modules that mixers share. Weights start at zero (norms at one) until `init_weights` or a load fills them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidewinder.config.model import ModelConfig
from sidewinder.ops.cross_entropy import cross_entropy
from sidewinder.ops.linear import linear
from sidewinder.ops.norms import add_rms_norm, layer_norm, rms_norm

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x Wᵀ + bias of x (…, inputs), W (outputs, inputs) and bias (outputs) or None."""


class Linear(nn.Module):
    """x Wᵀ (+ bias), with W (outputs, inputs). Unlike torch's own it draws no random numbers when it is made."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.product: Product = linear
        """How it multiplies; training may do so in fewer bits (`train.float8`)."""
        self.divided = False
        """Whether the weight is a shard of a matrix that several processes hold together (`train.parallel.tensor`)."""

    @property
    def own_weight(self) -> Tensor:
        """The rows and columns that this process multiplies by."""
        # Not `local`: the compiler does not see that a sharded parameter has the attribute that it asks for.
        own: Tensor = self.weight.to_local() if self.divided else self.weight  # type: ignore[attr-defined]
        return own

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.own_weight, self.bias)


class Embedding(nn.Module):
    """Rows of the weight (vocabulary, size), one a token."""

    def __init__(self, vocab_size: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocab_size, size))

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Rows (B, L, D) of tokens (B, L)."""
        return F.embedding(tokens_BL, self.weight)


class Head(Linear):
    """Scores of the next token, or their loss."""

    def loss(self, hidden_BLD: Tensor, targets_BL: Tensor) -> Tensor:
        """Mean cross-entropy over targets other than −100; all logits are never held at once."""
        return cross_entropy(hidden_BLD.flatten(0, 1), self.weight, targets_BL.flatten())


class ShortConv(nn.Module):
    """Holds the weight (channels, 1, width) and bias (channels) of a depthwise causal convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, width))
        self.bias = nn.Parameter(torch.zeros(channels))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x_BLD: Tensor) -> Tensor:
        return rms_norm(x_BLD, self.weight, self.eps)

    def add(self, x_BLD: Tensor, update_BLD: Tensor | None) -> tuple[Tensor, Tensor]:
        """`x + update`, to go on past the norm, and its norm."""
        return add_rms_norm(x_BLD, update_BLD, self.weight, self.eps)


class LayerNorm(nn.Module):
    """The scale is 1 + weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x_BLD: Tensor) -> Tensor:
        return layer_norm(x_BLD, self.weight, self.bias, self.eps)

    def add(self, x_BLD: Tensor, update_BLD: Tensor | None) -> tuple[Tensor, Tensor]:
        """`x + update`, to go on past the norm, and its norm."""
        x_BLD = x_BLD if update_BLD is None else x_BLD + update_BLD
        return x_BLD, self(x_BLD)


def make_norm(config: ModelConfig) -> RMSNorm | LayerNorm:
    """The norm that stands before each mixer and before the head."""
    kind = RMSNorm if config.norm == "rmsnorm" else LayerNorm
    return kind(config.hidden_size, config.norm_eps)
