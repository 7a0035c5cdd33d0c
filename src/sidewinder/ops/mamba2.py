"""The inside of a Mamba-2 layer, between its input and its output projection, as one operation.

On a GPU (`mamba2_triton`) the backward pass keeps the input projection and the scan's output and computes the
convolution again; the gradients of z, x, B, C and dt are written side by side, as the projection's backward wants them.
Shapes: B batch, L length, E = 2 I + 2 G N + H projected, I = H P inner channels, H heads of P channels, G groups,
N state size, C = I + 2 G N convolved, W width, S = W − 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from sidewinder.ops.causal_conv1d import causal_conv1d
from sidewinder.ops.dispatch import in_float32, on_gpu
from sidewinder.ops.gated_norm import gated_norm
from sidewinder.ops.ssd import LARGEST_STATE, ssd


class Inside(NamedTuple):
    """Parameters of the operation, and sizes.

    The convolution's weight (C, 1, W) and bias (C); the bias of dt, A and D (H); the norm's weight (I).
    """

    conv_weight: Tensor
    conv_bias: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    norm_weight: Tensor
    groups: int
    """Groups of heads that share B and C, and of the norm."""
    chunk: int
    eps: float

    @property
    def heads(self) -> int:
        return self.A.shape[0]

    @property
    def inner(self) -> int:
        return self.norm_weight.shape[0]

    @property
    def convolved(self) -> int:
        return self.conv_bias.shape[0]

    @property
    def bc(self) -> int:
        """Channels of B, or of C."""
        return (self.convolved - self.inner) // 2


def mix(
    projected_BLE: Tensor,
    inside: Inside,
    *,
    tail_BSC: Tensor | None = None,
    initial_BHPN: Tensor | None = None,
    resets_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """From z, x, B, C, dt (B, L, E) the gated norm (B, L, I), the convolution's last inputs and the last state."""
    if on_gpu(projected_BLE) and inside.bc // inside.groups <= LARGEST_STATE:
        from sidewinder.ops.mamba2_triton import mix_triton

        return mix_triton(projected_BLE, inside, tail_BSC, initial_BHPN, resets_BL)
    z_BLI, xBC_BLC, dt_BLH = projected_BLE.split([inside.inner, inside.convolved, inside.heads], dim=-1)
    xBC_BLC, last_BSC = causal_conv1d(
        xBC_BLC, inside.conv_weight, inside.conv_bias, initial_BSC=tail_BSC, resets_BL=resets_BL
    )
    x_BLI, B_BLE, C_BLE = xBC_BLC.split([inside.inner, inside.bc, inside.bc], dim=-1)
    y_BLHP, final_BHPN = ssd(
        x_BLI.unflatten(-1, (inside.heads, -1)),
        F.softplus(in_float32(dt_BLH) + inside.dt_bias),
        inside.A,
        B_BLE.unflatten(-1, (inside.groups, -1)),
        C_BLE.unflatten(-1, (inside.groups, -1)),
        inside.D,
        chunk=inside.chunk,
        initial_BHPN=initial_BHPN,
        resets_BL=resets_BL,
    )
    return gated_norm(y_BLHP.flatten(2), z_BLI, inside.norm_weight, inside.eps, inside.groups), last_BSC, final_BHPN
