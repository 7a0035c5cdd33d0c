"""MLP layers (`-`): exact GELU, squared ReLU, or gated SiLU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sidewinder.config.model import ModelConfig
from sidewinder.model.cache import LayerCache
from sidewinder.model.parts import Linear
from sidewinder.model.share import Mixer
from sidewinder.ops.squared_relu import squared_relu


class Mlp(Mixer):
    """Two matrix products with GELU or squared ReLU between, or three with a SiLU gate (SwiGLU); no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.mlp.activation
        hidden, size = config.hidden_size, config.mlp.size
        if self.activation == "swiglu":
            self.gate_proj = Linear(hidden, size)
        self.up_proj = Linear(hidden, size)
        self.down_proj = Linear(size, hidden)

    def forward(self, x_BLD: Tensor, cache: LayerCache = None, resets_BL: Tensor | None = None) -> Tensor:
        """An MLP sees one token at a time, so it needs neither cache nor resets."""
        up_BLF = self.up_proj(x_BLD)
        if self.activation == "swiglu":
            return self.down_proj(F.silu(self.gate_proj(x_BLD)) * up_BLF)
        return self.down_proj(F.gelu(up_BLF) if self.activation == "gelu" else squared_relu(up_BLF))

    def new_cache(self, batch: int, like: Tensor, max_tokens: int | None) -> None:
        """An MLP has nothing to remember."""
