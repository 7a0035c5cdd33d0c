"""Normalisation over the last dimension: RMSNorm, and LayerNorm whose stored weight is zero-centred.

Shapes: ... any leading dimensions, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm_reference(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension."""
    return x_D / torch.sqrt((x_D * x_D).mean(-1, keepdim=True) + eps) * weight_D


def layer_norm_reference(x_D: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
    """(x − mean) / sqrt(variance + eps) · (1 + weight) + bias, over the last dimension."""
    centred_D = x_D - x_D.mean(-1, keepdim=True)
    return centred_D / torch.sqrt((centred_D * centred_D).mean(-1, keepdim=True) + eps) * (1 + weight_D) + bias_D


def rms_norm(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMSNorm (Zhang and Sennrich, arXiv 1910.07467) of `x` (…, D)."""
    return F.rms_norm(x_D, (x_D.shape[-1],), weight_D, eps)


def layer_norm(x_D: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
    """LayerNorm of `x` (…, D); the stored weight is the scale minus one, so that weight decay pulls towards one."""
    return F.layer_norm(x_D, (x_D.shape[-1],), weight_D + 1, bias_D, eps)
