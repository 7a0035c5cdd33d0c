"""The norm at the end of a Mamba-2 mixer: multiply by SiLU(z), then RMS-normalise each group of channels.

Shapes: ... any leading dimensions, D channels in G groups of D / G.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sidewinder.ops.dispatch import in_float32, on_gpu
from sidewinder.ops.norms import inverse_rms, rms_gradient_


def gated_norm_reference(x_D: Tensor, z_D: Tensor, weight_D: Tensor, eps: float, groups: int) -> Tensor:
    """Gate first, norm second, group by group."""
    gated_D = x_D * z_D * torch.sigmoid(z_D)
    parts = [g / torch.sqrt((g * g).mean(-1, keepdim=True) + eps) for g in gated_D.chunk(groups, dim=-1)]
    return torch.cat(parts, dim=-1) * weight_D


def gated_norm(x_D: Tensor, z_D: Tensor, weight_D: Tensor, eps: float, groups: int) -> Tensor:
    """Grouped gated RMSNorm of `x` (…, D) with the gate `z` (…, D); `groups` must divide D."""
    if on_gpu(x_D):
        from sidewinder.ops.gated_norm_triton import gated_norm_triton

        return gated_norm_triton(x_D, z_D, weight_D, eps, groups)
    inputs = (in_float32(part) for part in (x_D, z_D, weight_D))
    return _GatedNorm.apply(*inputs, eps, groups).to(x_D.dtype)


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_D: Tensor, z_D: Tensor, weight_D: Tensor, eps: float, groups: int) -> Tensor:
        gate_D = F.silu(z_D)
        gated_GE = (x_D * gate_D).unflatten(-1, (groups, -1))
        inverse_G1 = inverse_rms(gated_GE, eps)
        ctx.save_for_backward(x_D, z_D, weight_D, gate_D, gated_GE, inverse_G1)
        return (gated_GE * inverse_G1).flatten(-2).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (dy_D,), (x_D, z_D, weight_D, gate_D, gated_GE, inverse_G1) = d_outputs, ctx.saved_tensors
        dy_GE = dy_D.unflatten(-1, gated_GE.shape[-2:])
        d_weight_D = (dy_GE * gated_GE).mul_(inverse_G1).flatten(-2).flatten(0, -2).sum(0)
        d_gated_GE = rms_gradient_(dy_GE * weight_D.view(gated_GE.shape[-2:]), gated_GE, inverse_G1)
        d_gated_D = d_gated_GE.flatten(-2)
        dz_D = torch.ops.aten.silu_backward(d_gated_D * x_D, z_D)
        return d_gated_D.mul_(gate_D), dz_D, d_weight_D, None, None
