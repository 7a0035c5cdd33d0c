"""What a GPU could do at most, and the share of it that training makes use of.

The peaks are the makers' figures for dense bfloat16 products that are summed in float32 (data sheets print twice as
much for products with structured sparsity). A GPU that is not listed here, a slice of one (MIG) and a CPU have no
peak: then no utilisation is told, rather than a wrong one.
"""

from __future__ import annotations

import re

import torch

PEAKS: dict[str, float] = {
    # NVIDIA A100 data sheet: 312 in every form; the names differ in socket and memory.
    r"(NVIDIA )?A100-(SXM4|PCIE)-(40|80)GB": 312e12,
    r"NVIDIA A100 80GB PCIe": 312e12,
    # NVIDIA A30, A40 and RTX A6000 data sheets.
    r"NVIDIA A30": 165e12,
    r"NVIDIA A40": 149.7e12,
    r"NVIDIA RTX A6000": 154.8e12,
    # NVIDIA H100 data sheet: SXM 1,979 with sparsity, PCIe 1,513, NVL 1,671 a GPU.
    r"NVIDIA H100 80GB HBM3": 989.4e12,
    r"NVIDIA H100 PCIe": 756.5e12,
    r"NVIDIA H100 NVL": 835.5e12,
    # NVIDIA H200 data sheet: the SXM form computes as the H100's does, the NVL form as the H100 NVL.
    r"NVIDIA H200": 989.4e12,
    r"NVIDIA H200 NVL": 835.5e12,
    r"NVIDIA GH200 (480GB|120GB|96GB|144G HBM3e)": 989.4e12,
    # NVIDIA Blackwell architecture brief: 4,500 (B200 in HGX) and 5,000 (in GB200) with sparsity.
    r"NVIDIA B200": 2250e12,
    r"NVIDIA GB200": 2500e12,
    # NVIDIA L4 and L40S data sheets.
    r"NVIDIA L4": 121e12,
    r"NVIDIA L40S": 362.05e12,
    # NVIDIA's architecture papers on GA102, Ada and Blackwell for GeForce, at the boost clock.
    r"NVIDIA GeForce RTX 3090": 71e12,
    r"NVIDIA GeForce RTX 4090": 165.2e12,
    r"NVIDIA GeForce RTX 5090": 209.5e12,
    # AMD Instinct data sheets.
    r"AMD Instinct MI300X( OAM)?": 1307.4e12,
}
"""Patterns of whole names, as `torch.cuda.get_device_name` gives them, and FLOP/s."""


def peak_flops(device_name: str) -> float | None:
    """Peak dense bfloat16 FLOP/s of one GPU; None where it is not known."""
    return next((peak for name, peak in PEAKS.items() if re.fullmatch(name, device_name)), None)


def peak_of(device: torch.device) -> float | None:
    """The peak of the GPU that a process computes on; None for a CPU or a GPU that is not known."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def utilisation(
    flops_per_token: float, tokens_per_s: float, device_count: int, peak_flops_per_s: float | None
) -> float | None:
    """Model FLOPs utilisation: the share of the GPUs' peak that the model's own arithmetic is; None without a peak.

    `flops_per_token` counts what the model needs (`model.count`), not what is computed again to save memory;
    `tokens_per_s` is of all GPUs together.
    """
    if peak_flops_per_s is None:
        return None
    return flops_per_token * tokens_per_s / (device_count * peak_flops_per_s)
