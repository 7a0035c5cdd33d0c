"""Peaks of known GPUs, utilisation, and what a row says of speed, bytes and waiting."""

from __future__ import annotations

import math
import time

import pytest
import torch

from sidewinder.tokens.manifest import bytes_per_token
from sidewinder.train.hardware import peak_flops, peak_of, utilisation
from sidewinder.train.meter import CHECKPOINT_STALL, DATA_WAIT, Meter

TERA = 10**12
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("A100-SXM4-40GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_known_gpus(name: str, tera: float) -> None:
    assert peak_flops(name) == pytest.approx(tera * TERA)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",  # A seventh of the GPU.
        "NVIDIA H20",
        "NVIDIA L40",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A100X",
        "Tesla V100-SXM2-32GB",  # Has no bfloat16 products.
        "cpu",
        "",
    ],
)
def test_no_peak_rather_than_a_wrong_one(name: str) -> None:
    assert peak_flops(name) is None


def test_cpu_has_no_peak() -> None:
    assert peak_of(torch.device("cpu")) is None


@pytest.mark.gpu
@NO_GPU
def test_peak_of_this_gpu_is_above_what_it_does() -> None:
    """A square product of bfloat16 takes longer than the peak would allow, on any GPU that is known."""
    device = torch.device("cuda")
    peak = peak_of(device)
    if peak is None:
        pytest.skip(f"{torch.cuda.get_device_name(device)} is not in the table")
    x = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.mm(x, x)
    start.record()
    for _ in range(20):
        torch.mm(x, x)
    end.record()
    torch.cuda.synchronize()
    measured = 20 * 2 * 8192**3 / (start.elapsed_time(end) / 1e3)
    assert 0 < measured < peak


def test_utilisation_of_the_measured_peers() -> None:
    """6 x 980 M parameters a token at 58,473 tokens a second on one H200 is 34.8 % of its peak."""
    assert utilisation(6 * 980e6, 58_473, 1, peak_flops("NVIDIA H200")) == pytest.approx(0.348, abs=5e-4)
    assert utilisation(6 * 980e6, 8 * 58_473, 8, 989.4e12) == pytest.approx(0.348, abs=5e-4)
    assert utilisation(1e9, 1e4, 1, None) is None


def test_row_of_a_known_gpu_and_of_a_cpu() -> None:
    gpu = Meter(flops_per_token=1e9, device_count=4, peak_flops_per_s=1e14, bytes_per_token=4.0)
    row = gpu.fields(tokens=100_000, step_s=0.5, loss=math.log(2) * 3)
    assert row == {
        "tokens_per_s": 200_000.0,
        "tokens_per_s_per_device": 50_000.0,
        "model_flops_utilisation": 0.5,
        "bits_per_byte": pytest.approx(0.75),
        "data_wait_s": 0.0,
        "checkpoint_stall_s": 0.0,
    }
    assert Meter(flops_per_token=1e9).fields(tokens=10, step_s=1.0, loss=1.0).keys() == {
        *("tokens_per_s", "tokens_per_s_per_device", "data_wait_s", "checkpoint_stall_s"),
    }


def test_waiting_is_told_once() -> None:
    meter = Meter(flops_per_token=1.0)
    for what in (DATA_WAIT, DATA_WAIT, CHECKPOINT_STALL):
        with meter.waiting(what):
            time.sleep(0.02)
    with pytest.raises(OSError, match="full"), meter.waiting(CHECKPOINT_STALL):
        raise OSError("the disk is full")
    first, second = (meter.fields(tokens=1, step_s=1.0, loss=1.0) for _ in range(2))
    assert first["data_wait_s"] >= 0.04
    assert first["checkpoint_stall_s"] >= 0.02
    assert (second["data_wait_s"], second["checkpoint_stall_s"]) == (0.0, 0.0)
    elapsed_s, waited_s = meter.data_stretch()
    assert 0.04 <= waited_s <= elapsed_s - 0.02, "the rows that were told take nothing from it, nor do saves"
    assert meter.data_stretch()[1] == 0.0


def test_bytes_of_a_token_are_weighted_by_source() -> None:
    """Three quarters of the tokens stand for 4 bytes each, one quarter for 2; the weights need not sum to 1."""
    text = [{"tokens": 100, "text_bytes": 500}, {"tokens": 300, "text_bytes": 1100}]
    sources = {
        "text": {"weight": 1.5, "shards": text},
        "code": {"weight": 0.5, "shards": [{"tokens": 50, "text_bytes": 100}]},
        "unused": {"weight": 0.0, "shards": []},
    }
    assert bytes_per_token({"sources": sources}) == pytest.approx(3.5)
    del text[1]["text_bytes"]
    assert bytes_per_token({"sources": sources}) is None
