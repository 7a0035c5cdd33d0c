"""Which form of an operation runs where: Triton kernels on a GPU, where their package is installed, else plain torch.

Every public operation asks `on_gpu` first. All forms have the same signature and meaning; the tests hold each against
the same float64 reference.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

FAST_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
HAS_TRITON = find_spec("triton") is not None
"""Looked up here, because the compiler does not follow the search for a package."""


def on_gpu(x: Tensor) -> bool:
    """True where the operation should run as a Triton kernel: CUDA memory, and not float64."""
    return x.is_cuda and x.dtype in FAST_DTYPES and HAS_TRITON


def in_float32(x: Tensor) -> Tensor:
    """`x` in float32 where it has a 16-bit type: the plain forms compute in it, as the kernels do."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def in_autocast(x: Tensor) -> Tensor:
    """`x` in autocast's type where autocast is on: custom operations have to ask for themselves."""
    return x.to(autocast_dtype(x))


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The type that autocast gives products of `x`; that of `x` where autocast is off."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def channels_together(x: Tensor) -> Tensor:
    """`x`, copied where its last dimension does not lie side by side in memory, as the kernels want it."""
    return x if x.stride(-1) == 1 else x.contiguous()
