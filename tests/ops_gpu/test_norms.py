"""The Triton RMSNorm of a residual stream against the float64 definition."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.ops.norms import rms_norm_beside, rms_norm_reference
from sidewinder.ops.norms_triton import rms_norm_beside_triton

pytestmark = pytest.mark.gpu
BOUND = {torch.float32: 2e-6, torch.bfloat16: 5e-3}


def plain(x_D, weight_D):
    return x_D, rms_norm_reference(x_D, weight_D, 1e-5)


@pytest.mark.parametrize("channels", [40, 1000, 4096])
@pytest.mark.parametrize("rows", [1, 5000])
def test_agrees_with_reference(draw, compare, dtype, rows, channels):
    inputs = {"x_D": draw(rows, channels), "weight_D": draw(channels)}
    compare(lambda **given: rms_norm_beside_triton(**given, eps=1e-5, dtype=dtype), plain, inputs, {}, BOUND[dtype])


def test_has_autocasts_type_and_the_same_bits_each_time(draw):
    x_D, weight_D = draw(3000, 512).requires_grad_(), draw(512).requires_grad_()
    d_normed_D, beside_D = draw(3000, 512, dtype=torch.bfloat16), draw(3000, 512)
    runs = []
    for _ in range(3):
        with torch.autocast("cuda", torch.bfloat16):
            stream_D, normed_D = rms_norm_beside(x_D, weight_D, 1e-5)
        gradients = torch.autograd.grad([stream_D, normed_D], [x_D, weight_D], [beside_D, d_normed_D])
        runs.append([normed_D, *gradients])
    assert normed_D.dtype == torch.bfloat16
    assert stream_D.data_ptr() == x_D.data_ptr()
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
