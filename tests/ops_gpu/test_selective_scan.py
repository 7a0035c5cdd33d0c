"""The Triton selective scan against the float64 recurrence, and against mamba-ssm's extension where it is installed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.ops import selective_scan_launches as launches
from sidewinder.ops import selective_scan_triton as form
from sidewinder.ops.selective_scan import selective_scan_reference
from sidewinder.ops.selective_scan_triton import selective_scan_triton

pytestmark = pytest.mark.gpu
BOUND = {torch.float32: 1e-5, torch.bfloat16: 5e-3}


def scan_inputs(draw, length, channels, states, dtype):
    wide = draw(2, length, channels + 24, dtype=dtype)
    return {
        "x_BLD": wide[..., 8 : 8 + channels],
        "dt_BLD": F.softplus(draw(2, length, channels) - 3).to(dtype),
        "A_DN": -torch.exp(draw(channels, states)),
        "B_BLN": draw(2, length, states, dtype=dtype),
        "C_BLN": draw(2, length, states, dtype=dtype),
        "D_D": draw(channels),
    }


def gated_inputs(draw, length, channels, states, dtype):
    """With a gate and a bias of dt, which is then any number. One z is exactly 0."""
    inputs = scan_inputs(draw, length, channels, states, dtype)
    wide = draw(2, length, channels + 24, dtype=dtype)
    wide[0, 0, 8] = 0
    gated = {"dt_BLD": draw(2, length, channels, dtype=dtype), "z_BLD": wide[..., 8 : 8 + channels]}
    return inputs | gated | {"dt_bias_D": draw(channels) - 3}


INPUTS = {"scan": scan_inputs, "gated": gated_inputs}


@pytest.mark.parametrize(
    ("kind", "channels", "states"), [("scan", 72, 16), ("gated", 72, 16), ("gated", 40, 128), ("scan", 130, 5)]
)
def test_agrees_with_reference(draw, resets, compare, case, dtype, kind, channels, states):
    length, initial, packed = case
    inputs = INPUTS[kind](draw, length, channels, states, dtype)
    if initial:
        inputs["initial_BDN"] = draw(2, channels, states)
    options = {"resets_BL": resets(2, length, packed)}
    compare(selective_scan_triton, selective_scan_reference, inputs, options, BOUND[dtype])


@pytest.mark.parametrize("warps_wanted", [1, 10_000])
@pytest.mark.parametrize("kind", INPUTS)
def test_any_cut_of_time(draw, resets, compare, monkeypatch, kind, warps_wanted):
    """One stretch and many, several spans in the backward pass."""
    monkeypatch.setattr(launches, "WARPS_WANTED", warps_wanted)
    monkeypatch.setattr(form, "SPAN_BYTES", 1)
    inputs = INPUTS[kind](draw, 1100, 72, 16, torch.float32) | {"initial_BDN": draw(2, 72, 16)}
    options = {"resets_BL": resets(2, 1100, True)}
    compare(selective_scan_triton, selective_scan_reference, inputs, options, 1e-5)


def test_strong_decay_stays_finite(draw, compare):
    inputs = scan_inputs(draw, 500, 64, 16, torch.float32)
    inputs["dt_BLD"] = inputs["dt_BLD"] * 300
    inputs["A_DN"] = inputs["A_DN"] * 10
    compare(selective_scan_triton, selective_scan_reference, inputs, {}, 1e-5)


def test_small_step_sizes_keep_their_digits(draw, compare):
    inputs = gated_inputs(draw, 100, 64, 16, torch.float32)
    inputs["dt_bias_D"] = torch.full_like(inputs["dt_bias_D"], -12.0)
    compare(selective_scan_triton, selective_scan_reference, inputs, {}, 1e-5)


def test_same_bits_each_time(draw):
    inputs = gated_inputs(draw, 999, 1536, 16, torch.bfloat16)
    for part in inputs.values():
        part.requires_grad_()
    runs = []
    for _ in range(3):
        y, final = selective_scan_triton(**inputs)
        runs.append((y, final, *torch.autograd.grad(y.float().square().sum() + final.sum(), list(inputs.values()))))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("states", [16, 128])
def test_mamba_ssm_agrees(draw, compare, dtype, states):
    interface = pytest.importorskip("mamba_ssm.ops.selective_scan_interface")
    if not hasattr(interface.selective_scan_cuda, "fwd"):
        pytest.skip("mamba-ssm's extension is not compiled")

    def theirs(x_BLD, dt_BLD, A_DN, B_BLN, C_BLN, D_D):
        x, dt, b, c = (part.transpose(1, 2).contiguous() for part in (x_BLD, dt_BLD, B_BLN, C_BLN))
        return interface.selective_scan_fn(x, dt, A_DN, b, c, D_D).transpose(1, 2)

    def reference(**inputs):
        return selective_scan_reference(**inputs)[0]

    inputs = scan_inputs(draw, 1000, 72, states, dtype)
    compare(theirs, reference, inputs, {}, BOUND[dtype])
