"""Normalisation over the last dimension: RMSNorm, and LayerNorm whose stored weight is zero-centred.

Shapes: ... any leading dimensions, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sidewinder.ops.dispatch import autocast_dtype, in_float32, on_gpu


def rms_norm_reference(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension."""
    return x_D / torch.sqrt((x_D * x_D).mean(-1, keepdim=True) + eps) * weight_D


def layer_norm_reference(x_D: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
    """(x − mean) / sqrt(variance + eps) · (1 + weight) + bias, over the last dimension."""
    centred_D = x_D - x_D.mean(-1, keepdim=True)
    return centred_D / torch.sqrt((centred_D * centred_D).mean(-1, keepdim=True) + eps) * (1 + weight_D) + bias_D


def rms_norm(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMSNorm (Zhang and Sennrich, arXiv 1910.07467) of `x` (…, D)."""
    if x_D.is_cuda:
        return F.rms_norm(x_D, (x_D.shape[-1],), weight_D, eps)
    return _RmsNorm.apply(in_float32(x_D), in_float32(weight_D), eps).to(x_D.dtype)


def add_rms_norm(x_D: Tensor, update_D: Tensor | None, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A residual stream and its RMSNorm: `x + update`, where there is an update, and the norm of that.

    On a GPU one pass adds and norms, under autocast into its type at once, and one pass gives all gradients. A compiler
    joins such passes by itself.
    """
    if not torch.compiler.is_compiling() and on_gpu(x_D):
        from sidewinder.ops.norms_triton import add_rms_norm_triton

        return add_rms_norm_triton(x_D, update_D, weight_D, eps, autocast_dtype(x_D))
    x_D = x_D if update_D is None else x_D + update_D
    return x_D, rms_norm(x_D, weight_D, eps)


def layer_norm(x_D: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
    """LayerNorm of `x` (…, D); the stored weight is the scale minus one, so that weight decay pulls towards one."""
    # On a CPU torch sums the weight's gradient in 16 bits; on a GPU it wants one type.
    dtype = torch.promote_types(x_D.dtype, weight_D.dtype if x_D.is_cuda else torch.float32)
    scale_D, bias_D = weight_D.to(dtype) + 1, bias_D.to(dtype)
    return F.layer_norm(x_D.to(dtype), (x_D.shape[-1],), scale_D, bias_D, eps).to(x_D.dtype)


def inverse_rms(x_D: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x²) + eps) over the last dimension, which stays as a dimension of one."""
    return torch.linalg.vecdot(x_D, x_D).div_(x_D.shape[-1]).add_(eps).rsqrt_()[..., None]


def rms_gradient_(d_normal_D: Tensor, x_D: Tensor, inverse_1: Tensor) -> Tensor:
    """Turns, in place, the gradient of x / rms into that of x."""
    along_1 = torch.linalg.vecdot(d_normal_D, x_D)[..., None].mul_(inverse_1.square()).div_(-x_D.shape[-1])
    return d_normal_D.addcmul_(x_D, along_1).mul_(inverse_1)


class _RmsNorm(torch.autograd.Function):
    """Half the passes of F.rms_norm, which on a CPU is put together from other operations."""

    @staticmethod
    def forward(ctx: Any, x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        inverse_1 = inverse_rms(x_D, eps)
        ctx.save_for_backward(x_D, weight_D, inverse_1)
        return (x_D * inverse_1).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (dy_D,), (x_D, weight_D, inverse_1) = d_outputs, ctx.saved_tensors
        d_weight_D = (dy_D * x_D).mul_(inverse_1).flatten(0, -2).sum(0)
        return rms_gradient_(dy_D * weight_D, x_D, inverse_1), d_weight_D, None
