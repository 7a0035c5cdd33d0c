"""The Triton RMSNorm of a residual stream against the float64 definition."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.ops.norms import add_rms_norm, rms_norm_reference
from sidewinder.ops.norms_triton import add_rms_norm_triton

pytestmark = pytest.mark.gpu
BOUND = {torch.float32: 2e-6, torch.bfloat16: 5e-3}


def plain(x_D, weight_D, update_D=None):
    stream_D = x_D if update_D is None else x_D + update_D
    return stream_D, rms_norm_reference(stream_D, weight_D, 1e-5)


@pytest.mark.parametrize("channels", [40, 1000, 4096])
@pytest.mark.parametrize("rows", [1, 5000])
@pytest.mark.parametrize("updated", [True, False])
def test_agrees_with_reference(draw, compare, dtype, updated, rows, channels):
    def form(x_D, weight_D, update_D=None):
        return add_rms_norm_triton(x_D, update_D, weight_D, 1e-5, dtype)

    inputs = {"x_D": draw(rows, channels), "weight_D": draw(channels)}
    inputs |= {"update_D": draw(rows, channels, dtype=dtype)} if updated else {}
    compare(form, plain, inputs, {}, BOUND[dtype])


def test_has_autocasts_type_and_the_same_bits_each_time(draw):
    x_D, weight_D = draw(3000, 512).requires_grad_(), draw(512).requires_grad_()
    update_D = draw(3000, 512, dtype=torch.bfloat16).requires_grad_()
    d_normed_D, beside_D = draw(3000, 512, dtype=torch.bfloat16), draw(3000, 512)
    runs = []
    for _ in range(3):
        with torch.autocast("cuda", torch.bfloat16):
            stream_D, normed_D = add_rms_norm(x_D, update_D, weight_D, 1e-5)
        gradients = torch.autograd.grad([stream_D, normed_D], [x_D, update_D, weight_D], [beside_D, d_normed_D])
        runs.append([stream_D, normed_D, *gradients])
    assert normed_D.dtype == torch.bfloat16
    assert torch.equal(stream_D, x_D + update_D)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
