"""The norm at the end of a Mamba-2 mixer: multiply by SiLU(z), then RMS-normalise each group of channels.

Shapes: ... any leading dimensions, D channels in G groups of D / G.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gated_norm_reference(x_D: Tensor, z_D: Tensor, weight_D: Tensor, eps: float, groups: int) -> Tensor:
    """Gate first, norm second, group by group."""
    gated_D = x_D * z_D * torch.sigmoid(z_D)
    parts = [g / torch.sqrt((g * g).mean(-1, keepdim=True) + eps) for g in gated_D.chunk(groups, dim=-1)]
    return torch.cat(parts, dim=-1) * weight_D


def gated_norm(x_D: Tensor, z_D: Tensor, weight_D: Tensor, eps: float, groups: int) -> Tensor:
    """Grouped gated RMSNorm of `x` (…, D) with the gate `z` (…, D); `groups` must divide D."""
    gated_GE = (x_D * F.silu(z_D)).unflatten(-1, (groups, -1))
    return F.rms_norm(gated_GE, gated_GE.shape[-1:], None, eps).flatten(-2) * weight_D
