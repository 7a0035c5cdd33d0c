"""RMSNorm of a residual stream on a GPU: the norm in autocast's type at once, and one pass backward.

Eagerly torch would write the norm in the stream's float32 and cast it, and backward cast, norm and add in a pass each.
Each program sums the gradient of the weight over its own rows, so results are the same bit for bit.
Shapes: R rows (all leading dimensions), D channels; P parts of the rows.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from sidewinder.ops.kernels import rms_norm as kernels

BACKWARD_PROGRAMS = 132 * 16
"""Programs that share the rows in the backward pass: enough to fill a large GPU several times."""


def _launch(channels: int) -> dict[str, int]:
    block = triton.next_power_of_2(channels)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 16)}


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_D: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        channels = x_D.shape[-1]
        y_D = torch.empty(x_D.shape, dtype=dtype, device=x_D.device)
        scale_R = torch.empty(x_D.numel() // channels, dtype=torch.float32, device=x_D.device)
        kernels.forward_kernel[(len(scale_R),)](x_D, weight_D, y_D, scale_R, channels, eps, **_launch(channels))
        ctx.save_for_backward(x_D, weight_D, scale_R)
        ctx.set_materialize_grads(False)
        return x_D, y_D

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        (x_D, weight_D, scale_R), (beside_D, dy_D) = ctx.saved_tensors, d_outputs
        if dy_D is None:
            return beside_D, None, None, None
        channels, rows = x_D.shape[-1], len(scale_R)
        dy_RD = dy_D.reshape(rows, channels)
        dy_RD = dy_RD if dy_RD.stride(1) == 1 else dy_RD.contiguous()
        beside_D = None if beside_D is None else beside_D.contiguous()
        dx_D = torch.empty_like(x_D)
        rows_a_program = triton.cdiv(rows, BACKWARD_PROGRAMS)
        parts = triton.cdiv(rows, rows_a_program)
        d_weight_PD = torch.empty(parts, channels, dtype=torch.float32, device=x_D.device)
        kernels.backward_kernel[(parts,)](
            x_D, weight_D, scale_R, dy_RD, beside_D, dx_D, d_weight_PD,
            dy_RD.stride(0), rows, channels, rows_a_program, **_launch(channels),
        )  # fmt: skip
        return dx_D, d_weight_PD.sum(0).to(weight_D.dtype), None, None


def rms_norm_beside_triton(x_D: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As `rms_norm_beside`, for bfloat16, float16 or float32 on a GPU; sums are float32, the norm has this type."""
    x_D, y_D = _Beside.apply(x_D.contiguous(), weight_D.contiguous(), eps, dtype)
    return x_D, y_D
