"""The inside of a Mamba-1 layer, between its input and its output projection, as two operations.

They are the convolution and the scan with the small products that belong to them, so that on a GPU the backward pass
keeps the layer's two inputs, x and z, and the gated output, and computes the rest again (`mamba1_triton`). Between the
two, tensor parallelism sums over processes.
Shapes: B batch, L length, I inner channels, R rank of dt, N state size, E = R + 2 N, W width, S = W − 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from sidewinder.ops.causal_conv1d import causal_conv1d
from sidewinder.ops.dispatch import on_gpu
from sidewinder.ops.selective_scan import selective_scan


class Convolved(NamedTuple):
    """The convolution's output (B, L, I) and what it is computed from, to compute it again: the arguments of
    `causal_conv1d`."""

    out: Tensor
    x: Tensor
    weight: Tensor
    bias: Tensor
    initial: Tensor | None
    resets: Tensor | None


def convolve_and_project(
    x_BLI: Tensor,
    weight_I1W: Tensor,
    bias_I: Tensor,
    proj_weight_EI: Tensor,
    *,
    initial_BSI: Tensor | None = None,
    resets_BL: Tensor | None = None,
) -> tuple[Convolved, Tensor, Tensor]:
    """The convolution with SiLU, its product with `proj_weight` (B, L, E), and its last inputs (B, S, I)."""
    given = (x_BLI, weight_I1W, bias_I, initial_BSI, resets_BL)
    if on_gpu(x_BLI):
        from sidewinder.ops.mamba1_triton import convolve_and_project_triton

        return convolve_and_project_triton(*given, proj_weight_EI)
    out_BLI, final_BSI = causal_conv1d(x_BLI, weight_I1W, bias_I, initial_BSC=initial_BSI, resets_BL=resets_BL)
    return Convolved(out_BLI, *given), F.linear(out_BLI, proj_weight_EI), final_BSI


def scan_projected(
    x: Convolved,
    dtBC_BLE: Tensor,
    dt_weight_IR: Tensor,
    dt_bias_I: Tensor,
    A_IN: Tensor,
    D_I: Tensor,
    *,
    z_BLI: Tensor | None = None,
    initial_BIN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The selective scan of `x` with step size, B and C from their joint projection; also its last state.

    The step size is softplus(dt Wᵀ + bias). With `z` the output is y · silu(z). Resets are those of `x`.
    """
    if on_gpu(x.out):
        from sidewinder.ops.mamba1_triton import scan_projected_triton

        return scan_projected_triton(x, dtBC_BLE, dt_weight_IR, dt_bias_I, A_IN, D_I, z_BLI, initial_BIN)
    rank, state_size = dt_weight_IR.shape[1], A_IN.shape[1]
    dt_BLR, B_BLN, C_BLN = dtBC_BLE.split([rank, state_size, state_size], dim=-1)
    dt_BLI = F.softplus(F.linear(dt_BLR, dt_weight_IR, dt_bias_I))
    inputs = (x.out, dt_BLI, A_IN, B_BLN, C_BLN, D_I)
    return selective_scan(*inputs, z_BLD=z_BLI, initial_BDN=initial_BIN, resets_BL=x.resets)
