"""Rotary position embedding (Su et al., arXiv 2104.09864) on the first channels of each head.

Channel i of the rotated part is paired with channel i + R/2 (halves, not neighbours), as in Megatron and Nemotron.
Shapes: B batch, L length, H heads, E channels a head, R rotated channels (first R of E).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rope_reference(x_BLHE: Tensor, rotated: int, base: float, offset: int = 0) -> Tensor:
    """Each pair of channels as a complex number, turned by position × base^(−2i/R)."""
    half = rotated // 2
    place_L = torch.arange(offset, offset + x_BLHE.shape[1], dtype=torch.float64)
    angle_LR = place_L[:, None] * base ** (-torch.arange(half, dtype=torch.float64) / half)
    turn_LR = torch.polar(torch.ones_like(angle_LR), angle_LR)[:, None]
    pair_BLHR = torch.complex(x_BLHE[..., :half].double(), x_BLHE[..., half:rotated].double()) * turn_LR
    return torch.cat([pair_BLHR.real, pair_BLHR.imag, x_BLHE[..., rotated:].double()], -1).to(x_BLHE.dtype)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve training too
def rope_tables(
    end: int, size: int, rotated: int, base: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine (end, 1, E) for positions 0 … end − 1, one and zero in the channels that are not rotated.

    Angles are taken in float64: in float32 they are off by 0.004 at position 65,536.
    """
    half = rotated // 2
    frequency_R = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle_LE = torch.zeros(end, size, dtype=torch.float64)
    angle_LE[:, :rotated] = (torch.arange(end, dtype=torch.float64)[:, None] * frequency_R).repeat(1, 2)
    return angle_LE[:, None].cos().to(device, dtype), angle_LE[:, None].sin().to(device, dtype)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve training too
def quarter_turn(size: int, rotated: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (E, E) with (first, second, rest) · matrix = (−second, first, 0)."""
    half = rotated // 2
    turn_EE = torch.zeros(size, size, dtype=dtype, device=device)
    turn_EE[half:rotated, :half] = -torch.eye(half)
    turn_EE[:half, half:rotated] = torch.eye(half)
    return turn_EE


def rope(x_BLHE: Tensor, rotated: int, base: float, offset: int = 0) -> Tensor:
    """Rotates the first `rotated` channels of each head; the first token of `x` stands at position `offset`."""
    length, size = x_BLHE.shape[1], x_BLHE.shape[-1]
    # Tables for a power of two of positions serve every shorter length and every step of decoding.
    table_end = 1 << (offset + length - 1).bit_length()
    cos_T1E, sin_T1E = rope_tables(table_end, size, rotated, base, x_BLHE.dtype, x_BLHE.device)
    part = slice(offset, offset + length)
    return _Rope.apply(x_BLHE, cos_T1E[part], sin_T1E[part], quarter_turn(size, rotated, x_BLHE.dtype, x_BLHE.device))


class _Rope(torch.autograd.Function):
    """x ∘ cos + (x · quarter turn) ∘ sin: whole heads at a time, for slices of a few channels are slow."""

    @staticmethod
    def forward(ctx: Any, x_BLHE: Tensor, cos_L1E: Tensor, sin_L1E: Tensor, turn_EE: Tensor) -> Tensor:
        ctx.save_for_backward(cos_L1E, sin_L1E, turn_EE)
        return (x_BLHE @ turn_EE).mul_(sin_L1E).addcmul_(x_BLHE, cos_L1E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (dy_BLHE,), (cos_L1E, sin_L1E, turn_EE) = d_outputs, ctx.saved_tensors
        return (dy_BLHE @ turn_EE.T).mul_(sin_L1E).addcmul_(dy_BLHE, cos_L1E), None, None, None
