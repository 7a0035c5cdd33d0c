"""Mamba-1 layers (`m`): input projection, short convolution, step size and B, C from the convolved input, the scan.

Rows of `in_proj` are x, z; rows of `x_proj` are dt (low rank), B, C.
Shapes: B batch, L length, D hidden, I inner, R rank of dt, N state size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sidewinder.config.model import ModelConfig
from sidewinder.model.cache import LayerCache, ScanCache, state_dtype
from sidewinder.model.parts import Linear, ShortConv
from sidewinder.model.share import Mixer
from sidewinder.ops.dispatch import in_float32
from sidewinder.ops.mamba1 import Convolved, convolve_and_project, scan_projected
from sidewinder.ops.state_passing import total_decay


class Mamba1(Mixer):
    """A selective state-space layer (arXiv 2312.00752): decays of its own for every channel and state."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.mamba1
        self.inner, self.state_size, self.conv_width = (
            config.hidden_size * sizes.expand,
            sizes.state_size,
            sizes.conv_width,
        )
        self.dt_rank = sizes.dt_rank or -(-config.hidden_size // 16)
        self.in_segments = (self.inner, self.inner)
        self.in_proj = Linear(config.hidden_size, sum(self.in_segments))
        self.conv1d = ShortConv(self.inner, sizes.conv_width)
        self.x_proj = Linear(self.inner, self.dt_rank + 2 * sizes.state_size)
        self.dt_proj = Linear(self.dt_rank, self.inner, bias=True)
        self.A_log = nn.Parameter(torch.zeros(self.inner, sizes.state_size))
        self.D = nn.Parameter(torch.ones(self.inner))
        self.out_proj = Linear(self.inner, config.hidden_size)

    def forward(self, x_BLD: Tensor, cache: LayerCache = None, resets_BL: Tensor | None = None) -> Tensor:
        """Output (B, L, D). With a cache, `x` continues the tokens in it."""
        assert cache is None or isinstance(cache, ScanCache)
        x_BLI, z_BLI = self.in_proj(x_BLD).chunk(2, dim=-1)
        tail_BSC = cache.conv if cache else None
        if self.context is not None:
            tail_BSC = self.context.before(x_BLI, self.conv_width - 1, resets_BL)
        x, dtBC_BLE, conv_BSC = convolve_and_project(
            x_BLI,
            self.own(self.conv1d.weight),
            self.own(self.conv1d.bias),
            self.x_proj.own_weight,
            initial_BSI=tail_BSC,
            resets_BL=resets_BL,
        )
        if self.tensor is not None:
            dtBC_BLE = self.tensor.sum(dtBC_BLE)
        assert self.dt_proj.bias is not None
        dt_proj = (self.dt_proj.own_weight, self.own(self.dt_proj.bias))
        inputs = (x, dtBC_BLE, *dt_proj, -in_float32(self.own(self.A_log)).exp(), self.own(self.D))
        initial_BIN = cache.state if cache else self._entering(*inputs)
        y_BLI, state_BIN = scan_projected(*inputs, z_BLI=z_BLI, initial_BIN=initial_BIN)
        if cache is not None:
            cache.conv, cache.state = conv_BSC, state_BIN
        return self.out_proj(y_BLI)

    def _entering(
        self, x: Convolved, dtBC_BLE: Tensor, dt_weight_IR: Tensor, dt_bias_I: Tensor, A_IN: Tensor, D_I: Tensor
    ) -> Tensor | None:
        """The state that earlier stretches of the sequence pass to this one; None where it is read whole.

        Each stretch is scanned twice, first for its own final state: what a state adds to the outputs has no short form
        here, because every channel and state number decays at its own rate.
        """
        if self.context is None:
            return None

        def decay(dt_BLR: Tensor) -> Tensor:
            dt_BLI = F.softplus(F.linear(dt_BLR, dt_weight_IR) + dt_bias_I)
            return total_decay(dt_BLI, A_IN, x.resets)

        _, final_BIN = scan_projected(x, dtBC_BLE, dt_weight_IR, dt_bias_I, A_IN, D_I)
        # Recomputed in the backward pass, as the scans do: the step sizes are as large as x.
        decay_BIN = checkpoint(decay, dtBC_BLE[..., : self.dt_rank], use_reentrant=False)
        return self.context.state_before(final_BIN, decay_BIN)

    def new_cache(self, batch: int, like: Tensor, max_tokens: int | None) -> ScanCache:
        conv_BSC = like.new_zeros(batch, self.conv_width - 1, self.inner)
        state_BIN = like.new_zeros(batch, self.inner, self.state_size, dtype=state_dtype(like.dtype))
        return ScanCache(conv_BSC, state_BIN)
