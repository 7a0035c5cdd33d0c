"""Mamba-2 layers (`M`): one input projection, a short convolution, the SSD scan, the grouped gated norm.

Rows of `in_proj` are z, x, B, C, dt; channels of the convolution are x, B, C.
Shapes: B batch, L length, D hidden, I inner, H heads of P channels, G groups, N state size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidewinder.config.model import ModelConfig
from sidewinder.model.cache import LayerCache, ScanCache, state_dtype
from sidewinder.model.parts import Linear, RMSNorm, ShortConv
from sidewinder.ops.causal_conv1d import causal_conv1d
from sidewinder.ops.gated_norm import gated_norm
from sidewinder.ops.ssd import ssd


class Mamba2(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.mamba2
        self.inner = config.hidden_size * sizes.expand
        self.heads = self.inner // sizes.head_size
        self.head_size, self.groups, self.state_size = sizes.head_size, sizes.groups, sizes.state_size
        self.chunk, self.conv_width = sizes.chunk, sizes.conv_width
        self.convolved = self.inner + 2 * sizes.groups * sizes.state_size
        self.in_proj = Linear(config.hidden_size, self.inner + self.convolved + self.heads)
        self.conv1d = ShortConv(self.convolved, sizes.conv_width)
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(self.inner, config.norm_eps)
        self.out_proj = Linear(self.inner, config.hidden_size)

    def forward(self, x_BLD: Tensor, cache: LayerCache = None, resets_BL: Tensor | None = None) -> Tensor:
        """Output (B, L, D). With a cache, `x` continues the tokens in it."""
        assert cache is None or isinstance(cache, ScanCache)
        z_BLI, xBC_BLC, dt_BLH = self.in_proj(x_BLD).split([self.inner, self.convolved, self.heads], dim=-1)
        xBC_BLC, conv_BSC = causal_conv1d(
            xBC_BLC,
            self.conv1d.weight,
            self.conv1d.bias,
            initial_BSC=cache.conv if cache else None,
            resets_BL=resets_BL,
        )
        bc = self.groups * self.state_size
        x_BLI, B_BLE, C_BLE = xBC_BLC.split([self.inner, bc, bc], dim=-1)
        y_BLHP, state_BHPN = ssd(
            x_BLI.unflatten(-1, (self.heads, -1)),
            F.softplus(dt_BLH + self.dt_bias),
            -self.A_log.exp(),
            B_BLE.unflatten(-1, (self.groups, -1)),
            C_BLE.unflatten(-1, (self.groups, -1)),
            self.D,
            chunk=self.chunk,
            initial_BHPN=cache.state if cache else None,
            resets_BL=resets_BL,
        )
        if cache is not None:
            cache.conv, cache.state = conv_BSC, state_BHPN
        return self.out_proj(gated_norm(y_BLHP.flatten(2), z_BLI, self.norm.weight, self.norm.eps, self.groups))

    def new_cache(self, batch: int, like: Tensor, max_tokens: int | None) -> ScanCache:
        conv_BSC = like.new_zeros(batch, self.conv_width - 1, self.convolved)
        shape_BHPN = (batch, self.heads, self.head_size, self.state_size)
        return ScanCache(conv_BSC, like.new_zeros(shape_BHPN, dtype=state_dtype(like.dtype)))
