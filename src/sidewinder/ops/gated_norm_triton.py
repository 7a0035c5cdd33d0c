"""The grouped gated RMSNorm of gated_norm.py on a GPU: one pass over x and z forward, one backward.

Backward recomputes the gate; of the norm only 1 / rms is kept. Each program sums the gradient of the weight over its
own rows, and the parts are added afterwards, so the result does not depend on timing.
Shapes: R rows (all leading dimensions), D channels in G groups of E; P parts of the rows.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from sidewinder.ops.gpu_function import Function, GpuFunction
from sidewinder.ops.kernels import gated_norm as kernels

BACKWARD_PROGRAMS = 132 * 16
"""Programs that share the rows in the backward pass: enough to fill a large GPU several times."""


def _launch(group: int) -> dict[str, int]:
    block = triton.next_power_of_2(group)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 16)}


def norm_forward(x_RD: Tensor, z_RD: Tensor, weight_D: Tensor, eps: float, groups: int) -> tuple[Tensor, Tensor]:
    """The norm, and 1 / rms of each group (R, G)."""
    rows, channels = x_RD.shape
    y_RD = torch.empty(rows, channels, dtype=x_RD.dtype, device=x_RD.device)
    scale_RG = torch.empty(rows, groups, dtype=torch.float32, device=x_RD.device)
    group = channels // groups
    kernels.forward_kernel[(rows, groups)](
        x_RD, z_RD, weight_D, y_RD, scale_RG, x_RD.stride(0), z_RD.stride(0), channels, group, eps, **_launch(group)
    )
    return y_RD, scale_RG


def _forward_shapes(x_RD, z_RD, weight_D, eps, groups):  # type: ignore[no-untyped-def]
    return x_RD.new_empty(x_RD.shape), x_RD.new_empty(x_RD.shape[0], groups, dtype=torch.float32)


def _backward(
    dy_RD: Tensor, x_RD: Tensor, z_RD: Tensor, weight_D: Tensor, scale_RG: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dz_RD = z_RD.new_empty(z_RD.shape)
    dx_RD, d_weight_D = norm_backward(dy_RD, x_RD, z_RD, weight_D, scale_RG, dz_RD)
    return dx_RD, dz_RD, d_weight_D


def norm_backward(
    dy_RD: Tensor, x_RD: Tensor, z_RD: Tensor, weight_D: Tensor, scale_RG: Tensor, dz_RD: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and the weight; fills in that of z (`dz`), which may be a slice."""
    (rows, channels), groups = x_RD.shape, scale_RG.shape[1]
    dy_RD = dy_RD if dy_RD.stride(1) == 1 else dy_RD.contiguous()
    dx_RD = x_RD.new_empty(x_RD.shape)
    rows_a_program = triton.cdiv(rows * groups, BACKWARD_PROGRAMS)
    parts = triton.cdiv(rows, rows_a_program)
    d_weight_PD = torch.empty(parts, channels, dtype=torch.float32, device=x_RD.device)
    group = channels // groups
    kernels.backward_kernel[(parts, groups)](
        x_RD, z_RD, weight_D, scale_RG, dy_RD, dx_RD, dz_RD, d_weight_PD,
        x_RD.stride(0), z_RD.stride(0), dy_RD.stride(0), dz_RD.stride(0), rows, channels, group, rows_a_program,
        **_launch(group),
    )  # fmt: skip
    return dx_RD, d_weight_PD.sum(0).to(weight_D.dtype)


def _backward_shapes(dy_RD, x_RD, z_RD, weight_D, scale_RG):  # type: ignore[no-untyped-def]
    return x_RD.new_empty(x_RD.shape), z_RD.new_empty(z_RD.shape), torch.empty_like(weight_D)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])


def _gradients(backward: Function, ctx: Any, dy_RD: Tensor, _: None) -> tuple[Tensor | None, ...]:
    return *backward(dy_RD, *ctx.saved_tensors), None, None


_norm = GpuFunction(
    "gated_norm",
    forward=norm_forward,
    forward_shapes=_forward_shapes,
    backward=_backward,
    backward_shapes=_backward_shapes,
    remember=_remember,
    gradients=_gradients,
)


def _as_rows(x_D: Tensor) -> Tensor:
    """(R, D), without a copy where only the last dimension was sliced."""
    rows_RD = x_D.reshape(-1, x_D.shape[-1])
    return rows_RD if rows_RD.stride(1) == 1 else rows_RD.contiguous()


def gated_norm_triton(x_D: Tensor, z_D: Tensor, weight_D: Tensor, eps: float, groups: int) -> Tensor:
    """As `gated_norm`, for bfloat16, float16 or float32 on a GPU; sums are float32, the output has the type of `x`."""
    y_RD, _ = _norm(_as_rows(x_D), _as_rows(z_D), weight_D.contiguous(), eps, groups)
    return y_RD.view(x_D.shape)
