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
from sidewinder.model.share import ContextShare, Mixer
from sidewinder.ops.causal_conv1d import causal_conv1d
from sidewinder.ops.dispatch import in_float32
from sidewinder.ops.gated_norm import gated_norm
from sidewinder.ops.mamba2 import Inside, mix
from sidewinder.ops.ssd import ssd
from sidewinder.ops.state_passing import ssd_of_state, total_decay


class Mamba2(Mixer):
    """A state-space-duality layer (arXiv 2405.21060): one decay a head, B and C shared by the heads of a group."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.mamba2
        self.inner = config.hidden_size * sizes.expand
        self.heads = self.inner // sizes.head_size
        self.head_size, self.groups, self.state_size = sizes.head_size, sizes.groups, sizes.state_size
        self.chunk, self.conv_width = sizes.chunk, sizes.conv_width
        self.convolved = self.inner + 2 * sizes.groups * sizes.state_size
        bc = sizes.groups * sizes.state_size
        self.conv_segments = (self.inner, bc, bc)
        self.in_segments = (self.inner, *self.conv_segments, self.heads)
        self.in_proj = Linear(config.hidden_size, sum(self.in_segments))
        self.conv1d = ShortConv(self.convolved, sizes.conv_width)
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(self.inner, config.norm_eps)
        self.out_proj = Linear(self.inner, config.hidden_size)

    def forward(self, x_BLD: Tensor, cache: LayerCache = None, resets_BL: Tensor | None = None) -> Tensor:
        """Output (B, L, D). With a cache, `x` continues the tokens in it."""
        assert cache is None or isinstance(cache, ScanCache)
        projected_BLE, inside = self.in_proj(x_BLD), self._inside()
        if self.context is None:
            tail_BSC, state_BHPN = (cache.conv, cache.state) if cache else (None, None)
            out_BLI, tail_BSC, state_BHPN = mix(
                projected_BLE, inside, tail_BSC=tail_BSC, initial_BHPN=state_BHPN, resets_BL=resets_BL
            )
            if cache is not None:
                cache.conv, cache.state = tail_BSC, state_BHPN
        else:
            out_BLI = self._mix_stretch(projected_BLE, inside, self.context, resets_BL)
        return self.out_proj(out_BLI)

    def _inside(self) -> Inside:
        return Inside(
            self.own(self.conv1d.weight, *self.conv_segments),
            self.own(self.conv1d.bias, *self.conv_segments),
            self.own(self.dt_bias),
            -in_float32(self.own(self.A_log)).exp(),
            self.own(self.D),
            self.own(self.norm.weight),
            self.groups,
            self.chunk,
            self.norm.eps,
        )

    def _mix_stretch(
        self, projected_BLE: Tensor, inside: Inside, context: ContextShare, resets_BL: Tensor | None
    ) -> Tensor:
        """As `mix`, of a sequence whose stretches several processes read: each reads its own from an empty state, and
        adds what the state adds that earlier stretches pass to it."""
        z_BLI, xBC_BLC, dt_BLH = projected_BLE.split([self.inner, self.convolved, self.heads], dim=-1)
        tail_BSC = context.before(xBC_BLC, self.conv_width - 1, resets_BL)
        conv = (inside.conv_weight, inside.conv_bias)
        xBC_BLC, _ = causal_conv1d(xBC_BLC, *conv, initial_BSC=tail_BSC, resets_BL=resets_BL)
        bc = self.groups * self.state_size
        x_BLI, B_BLE, C_BLE = xBC_BLC.split([self.inner, bc, bc], dim=-1)
        dt_BLH, A_H = F.softplus(dt_BLH + inside.dt_bias), inside.A
        B_BLGN, C_BLGN = (part.unflatten(-1, (self.groups, -1)) for part in (B_BLE, C_BLE))
        scanned = (x_BLI.unflatten(-1, (self.heads, -1)), dt_BLH, A_H, B_BLGN, C_BLGN, inside.D)
        y_BLHP, state_BHPN = ssd(*scanned, chunk=self.chunk, resets_BL=resets_BL)
        decay_BH = total_decay(dt_BLH, A_H, resets_BL)
        entering_BHPN = context.state_before(state_BHPN, decay_BH[..., None, None])
        y_BLHP = y_BLHP + ssd_of_state(entering_BHPN, dt_BLH, A_H, C_BLGN, resets_BL)
        return gated_norm(y_BLHP.flatten(2), z_BLI, inside.norm_weight, self.norm.eps, self.groups)

    def new_cache(self, batch: int, like: Tensor, max_tokens: int | None) -> ScanCache:
        conv_BSC = like.new_zeros(batch, self.conv_width - 1, self.convolved)
        shape_BHPN = (batch, self.heads, self.head_size, self.state_size)
        return ScanCache(conv_BSC, like.new_zeros(shape_BHPN, dtype=state_dtype(like.dtype)))
