"""The Triton convolution against the float64 window that slides token by token."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.ops.causal_conv1d import causal_conv1d_reference
from sidewinder.ops.causal_conv1d_triton import causal_conv1d_triton

pytestmark = pytest.mark.gpu
BOUND = {torch.float32: 1e-6, torch.bfloat16: 5e-3}


@pytest.mark.parametrize("channels", [96, 1027])
def test_agrees_with_reference(draw, resets, compare, case, dtype, channels):
    length, initial, packed = case
    if length > 1000 and channels > 1000:
        pytest.skip("the reference would take a minute")
    wide = draw(2, length, channels + 40, dtype=dtype)
    inputs = {"x_BLC": wide[..., 8 : 8 + channels], "weight_C1W": draw(channels, 1, 4), "bias_C": draw(channels)}
    if initial:
        inputs["initial_BSC"] = draw(2, 3, channels, dtype=dtype)
    options = {"silu": True, "resets_BL": resets(2, length, packed)}
    compare(causal_conv1d_triton, causal_conv1d_reference, inputs, options, BOUND[dtype])


@pytest.mark.parametrize("width", [2, 3, 5])
def test_other_widths_without_silu(draw, resets, compare, width):
    inputs = {"x_BLC": draw(2, 150, 48), "weight_C1W": draw(48, 1, width), "bias_C": draw(48)}
    inputs["initial_BSC"] = draw(2, width - 1, 48)
    options = {"silu": False, "resets_BL": resets(2, 150, True)}
    compare(causal_conv1d_triton, causal_conv1d_reference, inputs, options, 1e-6)


def test_documents_equal_those_alone(draw):
    lengths = (70, 1, 2, 130)
    x, weight, bias = draw(1, sum(lengths), 64, dtype=torch.bfloat16), draw(64, 1, 4), draw(64)
    resets = torch.zeros(1, sum(lengths), dtype=torch.bool, device="cuda")
    starts = [sum(lengths[:place]) for place in range(len(lengths))]
    resets[0, starts] = True
    packed, _ = causal_conv1d_triton(x, weight, bias, resets_BL=resets)
    alone = [causal_conv1d_triton(part, weight, bias)[0] for part in x.split(lengths, dim=1)]
    assert torch.equal(packed, torch.cat(alone, dim=1))


def test_same_bits_each_time(draw):
    x, weight, bias = draw(2, 999, 1536, dtype=torch.bfloat16), draw(1536, 1, 4), draw(1536)
    for part in (x, weight, bias):
        part.requires_grad_()
    runs = []
    for _ in range(3):
        y, _ = causal_conv1d_triton(x, weight, bias)
        runs.append((y, *torch.autograd.grad(y.float().square().sum(), (x, weight, bias))))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
