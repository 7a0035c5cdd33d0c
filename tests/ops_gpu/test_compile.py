"""Under torch.compile the operations are single nodes of one graph and give what they give eagerly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.ops.causal_conv1d_triton import causal_conv1d_triton
from sidewinder.ops.cross_entropy_triton import cross_entropy_triton
from sidewinder.ops.gated_norm_triton import gated_norm_triton
from sidewinder.ops.mamba1 import convolve_and_project, scan_projected
from sidewinder.ops.mamba2 import Inside, mix
from sidewinder.ops.selective_scan_triton import selective_scan_triton
from sidewinder.ops.ssd_triton import ssd_triton

pytestmark = pytest.mark.gpu


def chained(x, weight, bias, dt, a, b, c, d, scale, head, targets):
    y, _ = causal_conv1d_triton(x, weight, bias)
    y, _ = selective_scan_triton(y, F.softplus(dt - 3), -torch.exp(a), b, c, d)
    y, _ = selective_scan_triton(y, dt, -torch.exp(a), b, c, d, z_BLD=x, dt_bias_D=d - 3)
    convolved, dtBC, _ = convolve_and_project(y, weight, bias, a.T[:8].contiguous())
    y, _ = scan_projected(convolved, dtBC, a[:, :4].contiguous(), d - 3, -torch.exp(a[:, 4:6]), d, z_BLI=x)
    y = gated_norm_triton(y, x, scale, 1e-5, 4)
    # Eight heads of 16 channels and one group of states: the projection has z, x, B, C, dt.
    y_BLHP, _ = ssd_triton(y.unflatten(-1, (8, 16)), dt[..., :8].exp(), -torch.exp(a[:8, 0]), *(
        part.unsqueeze(2) for part in (b, c)
    ), d[:8], chunk=16)  # fmt: skip
    y = y_BLHP.flatten(2)
    inside = Inside(weight, bias, d[:4], -torch.exp(a[:4, 0]), d[:4], scale[:64], 1, 16, 1e-5)
    mixed, _, _ = mix(torch.cat([y, x[..., :64], dt[..., :4]], -1), inside)
    y = torch.cat([y[..., :64], mixed], -1)
    return cross_entropy_triton(y.flatten(0, 1), head, targets)


@pytest.mark.parametrize("initial_grad", [True, False])
def test_one_graph_same_result(draw, initial_grad):
    batch, length, channels, states = 2, 100, 128, 16
    shapes = [(batch, length, channels), (channels, 1, 4), (channels,), (batch, length, channels), (channels, states)]
    shapes += [(batch, length, states), (batch, length, states), (channels,), (channels,), (500, channels)]
    inputs = [draw(*shape).requires_grad_(initial_grad or place > 0) for place, shape in enumerate(shapes)]
    targets = torch.randint(500, (batch * length,), device="cuda")
    wanted = [part for part in inputs if part.requires_grad]
    compiled = torch.compile(chained, backend="aot_eager", fullgraph=True)
    results = []
    for function in (chained, compiled):
        loss = function(*inputs, targets)
        results.append((loss, *torch.autograd.grad(loss, wanted)))
    for eager, graph in zip(*results, strict=True):
        torch.testing.assert_close(eager, graph, rtol=1e-6, atol=1e-7)
