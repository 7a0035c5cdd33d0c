"""Starts processes that train together, on a GPU each or sharing one, which says nothing of their speed."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

GATHERS = ("all_gather_into_tensor", "reduce_scatter_tensor")
_library: list[torch.library.Library] = []  # What it registers lasts as long as it does.


def join(limit: timedelta | None = None) -> bool:
    """Joins torchrun's processes; whether they share GPUs. A collective that takes longer than `limit` fails."""
    shared = 0 < torch.cuda.device_count() < int(os.environ["WORLD_SIZE"])
    if shared:
        _gather_through_memory()
    # NCCL refuses two processes on one GPU.
    dist.init_process_group("gloo" if shared or not torch.cuda.is_available() else "cpu:gloo,cuda:nccl", timeout=limit)
    return shared


def _gather_through_memory() -> None:
    """gloo's own gathers read a GPU's addresses as the CPU's, and crash."""
    _library.append(torch.library.Library("_c10d_functional", "IMPL"))
    for name in GATHERS:
        _library[0].impl(name, _staged(getattr(torch.ops._c10d_functional, name)), "CUDA")


def _staged(collective: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def through_memory(x: Tensor, *options: Any) -> Tensor:
        found: Tensor = torch.ops._c10d_functional.wait_tensor(collective(x.cpu(), *options))
        return found.to(x.device)

    return through_memory
