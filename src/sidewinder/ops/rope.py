"""Rotary position embedding (Su et al., arXiv 2104.09864) on the first channels of each head.

Channel i of the rotated part is paired with channel i + R/2 (halves, not neighbours), as in Megatron and Nemotron.
Shapes: B batch, L length, H heads, E channels a head, R rotated channels (first R of E).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def rope_reference(x_BLHE: Tensor, rotated: int, base: float, offset: int = 0) -> Tensor:
    """Each pair of channels as a complex number, turned by position × base^(−2i/R)."""
    half = rotated // 2
    place_L = torch.arange(offset, offset + x_BLHE.shape[1], dtype=torch.float64)
    angle_LR = place_L[:, None] * base ** (-torch.arange(half, dtype=torch.float64) / half)
    turn_LR = torch.polar(torch.ones_like(angle_LR), angle_LR)[:, None]
    pair_BLHR = torch.complex(x_BLHE[..., :half].double(), x_BLHE[..., half:rotated].double()) * turn_LR
    return torch.cat([pair_BLHR.real, pair_BLHR.imag, x_BLHE[..., rotated:].double()], -1).to(x_BLHE.dtype)


@lru_cache(maxsize=8)
def rope_tables(end: int, rotated: int, base: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine (end, R/2) for positions 0 … end − 1; angles are taken in float64."""
    half = rotated // 2
    frequency_R = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle_LR = torch.arange(end, dtype=torch.float64)[:, None] * frequency_R
    return angle_LR.cos().to(device, dtype), angle_LR.sin().to(device, dtype)


def rope(x_BLHE: Tensor, rotated: int, base: float, offset: int = 0) -> Tensor:
    """Rotates the first `rotated` channels of each head; the first token of `x` stands at position `offset`."""
    length, half = x_BLHE.shape[1], rotated // 2
    # Tables for a power of two of positions serve every shorter length and every step of decoding.
    table_end = 1 << (offset + length - 1).bit_length()
    cos_TR, sin_TR = rope_tables(table_end, rotated, base, x_BLHE.dtype, x_BLHE.device)
    cos_LR, sin_LR = cos_TR[offset : offset + length, None], sin_TR[offset : offset + length, None]
    first, second, rest = x_BLHE.split([half, half, x_BLHE.shape[-1] - rotated], dim=-1)
    return torch.cat([first * cos_LR - second * sin_LR, second * cos_LR + first * sin_LR, rest], dim=-1)
