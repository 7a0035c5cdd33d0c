"""The scan of ssd.py on a GPU, by mamba-ssm's Triton kernels (Dao and Gu), which are the field's.

mamba-ssm is imported at the first call. Its import wants the compiled selective scan of Mamba-1, which these kernels do
not use: where that is absent or does not load, an empty module stands in for it.
Shapes: B batch, L length, H heads, P channels a head, G groups, N state size.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sidewinder.errors import SidewinderError


@cache
def _combined_scan() -> Callable[..., Any]:
    try:
        importlib.import_module("selective_scan_cuda")
    except ImportError:
        sys.modules["selective_scan_cuda"] = ModuleType("selective_scan_cuda")
    try:
        module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    except ImportError as error:
        raise SidewinderError(
            f"Mamba-2 layers on a GPU need mamba-ssm's Triton kernels, which cannot be imported: {error}",
            remedy="MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE pip install --no-build-isolation mamba-ssm",
        ) from error
    scan: Callable[..., Any] = module.mamba_chunk_scan_combined
    return scan


@torch.compiler.disable  # type: ignore[untyped-decorator]
def ssd_triton(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    D_H: Tensor,
    *,
    chunk: int,
    initial_BHPN: Tensor | None = None,
    resets_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `ssd`, for bfloat16, float16 or float32 on a GPU; the last state is float32.

    Documents are numbered from 0 at the first token or, where that is itself a reset, from 1: the kernels give the
    initial state to document 0 alone, which is what a reset means.
    """
    document_BL = None if resets_BL is None else resets_BL.cumsum(1, dtype=torch.int32)
    y_BLHP, final_BHPN = _combined_scan()(
        x_BLHP,
        dt_BLH,
        A_H,
        B_BLGN,
        C_BLGN,
        chunk_size=chunk,
        D=D_H,
        initial_states=initial_BHPN,
        seq_idx=document_BL,
        return_final_states=True,
    )
    return y_BLHP, final_BHPN
