"""Products under autocast: as torch's, with a gradient of the weight that was not rounded to 16 bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.ops.linear import linear

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("shape", [(64,), (3, 50, 64), (2, 1, 64), (1, 4097, 64)])
@pytest.mark.parametrize("outputs", [1, 96, 130])
def test_exacter_than_rounding(draw, shape, outputs):
    """Against float64 products of the same bfloat16 factors: output and input's gradient as torch's, the weight's like
    float32."""
    x = draw(*shape, dtype=torch.bfloat16).requires_grad_()
    weight = draw(outputs, 64).requires_grad_()
    d_out = draw(*shape[:-1], outputs, dtype=torch.bfloat16)
    found = []
    for product in (linear, F.linear):
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            out = product(x, weight)
        found.append((out, *torch.autograd.grad(out, (x, weight), d_out)))
    (out, dx, d_weight), (torch_out, torch_dx, torch_d_weight) = found
    assert (d_weight.dtype, dx.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close((out, dx), (torch_out, torch_dx), rtol=2**-7, atol=1e-2)
    exact = d_out.double().reshape(-1, outputs).T @ x.detach().double().reshape(-1, 64)
    error, torch_error = ((part.double() - exact).norm() / exact.norm() for part in (d_weight, torch_d_weight))
    assert error < 1e-5
    assert torch_error > 1e-4 or exact.numel() < 1000


def test_frozen_weight_and_frozen_input(draw):
    x, weight = draw(5, 64, dtype=torch.bfloat16), draw(32, 64)
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        (d_weight,) = torch.autograd.grad(linear(x, weight.requires_grad_()).sum(), weight)
        (dx,) = torch.autograd.grad(linear(x.requires_grad_(), weight.detach()).sum(), x)
        assert not linear(x.detach(), weight.detach()).requires_grad
    torch.testing.assert_close(d_weight[0], x.float().sum(0), rtol=1e-5, atol=1e-5)
    assert dx.shape == x.shape


def test_without_autocast_it_is_torchs_own(draw):
    x, weight = draw(5, 64), draw(32, 64)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
        assert torch.equal(linear(x, weight), F.linear(x, weight))
