"""RMSNorm of a residual stream on a GPU: one pass adds and norms, one pass gives all gradients.

Eagerly torch would add, norm the stream's float32 and cast that in a pass each, and backward cast, norm, add and cast.
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


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_D: Tensor, update_D: Tensor | None, weight_D: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        channels = x_D.shape[-1]
        sum_D = None
        if update_D is not None:
            sum_D = torch.empty_like(x_D, dtype=torch.promote_types(x_D.dtype, update_D.dtype))
        y_D = torch.empty_like(x_D, dtype=dtype)
        scale_R = torch.empty(x_D.numel() // channels, dtype=torch.float32, device=x_D.device)
        kernels.forward_kernel[(len(scale_R),)](
            x_D, update_D, weight_D, sum_D, y_D, scale_R, channels, eps, **_launch(channels)
        )
        stream_D = x_D if sum_D is None else sum_D
        ctx.save_for_backward(stream_D, weight_D, scale_R)
        ctx.dtypes = x_D.dtype, None if update_D is None else update_D.dtype
        ctx.set_materialize_grads(False)
        return stream_D, y_D

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        (stream_D, weight_D, scale_R), (beside_D, dy_D) = ctx.saved_tensors, d_outputs
        if dy_D is None:
            passed_on = [None if beside_D is None or dtype is None else beside_D.to(dtype) for dtype in ctx.dtypes]
            return (*passed_on, None, None, None)
        dtype, update_dtype = ctx.dtypes
        channels, rows = stream_D.shape[-1], len(scale_R)
        dy_RD = dy_D.reshape(rows, channels)
        dy_RD = dy_RD if dy_RD.stride(1) == 1 else dy_RD.contiguous()
        beside_D = None if beside_D is None else beside_D.contiguous()
        dx_D = torch.empty_like(stream_D, dtype=dtype)
        second_D = None if update_dtype in (None, dtype) else torch.empty_like(stream_D, dtype=update_dtype)
        rows_a_program = triton.cdiv(rows, BACKWARD_PROGRAMS)
        parts = triton.cdiv(rows, rows_a_program)
        d_weight_PD = torch.empty(parts, channels, dtype=torch.float32, device=dx_D.device)
        kernels.backward_kernel[(parts,)](
            stream_D, weight_D, scale_R, dy_RD, beside_D, dx_D, second_D, d_weight_PD,
            dy_RD.stride(0), rows, channels, rows_a_program, **_launch(channels),
        )  # fmt: skip
        d_update_D = dx_D if update_dtype == dtype else second_D
        return dx_D, d_update_D, d_weight_PD.sum(0).to(weight_D.dtype), None, None


def add_rms_norm_triton(
    x_D: Tensor, update_D: Tensor | None, weight_D: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As `add_rms_norm`, for bfloat16, float16 or float32 on a GPU; sums are float32, the norm has this type."""
    update_D = None if update_D is None else update_D.contiguous()
    stream_D, y_D = _AddNorm.apply(x_D.contiguous(), update_D, weight_D.contiguous(), eps, dtype)
    return stream_D, y_D
