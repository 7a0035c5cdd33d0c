"""The joined operations of a Mamba-1 layer against the plain ones in float64, and what they keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.config.model import Mamba1, ModelConfig
from sidewinder.model import LanguageModel, init_weights
from sidewinder.ops.mamba1 import convolve_and_project, scan_projected

pytestmark = pytest.mark.gpu
# Between the two operations numbers are rounded to the type: errors of bfloat16 add up.
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
CHANNELS, RANK = 80, 8


def layer(xz, weight, bias, project, dt_weight, dt_bias, A, D, tail=None, state=None, *, resets_BL):
    x, z = xz.chunk(2, dim=-1)
    x, dtBC, last = convolve_and_project(x, weight, bias, project, initial_BSI=tail, resets_BL=resets_BL)
    y, final = scan_projected(x, dtBC, dt_weight, dt_bias, A, D, z_BLI=z, initial_BIN=state)
    return y, final, last, dtBC


def layer_inputs(draw, length, states, dtype):
    return {
        "xz": draw(2, length, 2 * CHANNELS, dtype=dtype),
        "weight": draw(CHANNELS, 1, 4),
        "bias": draw(CHANNELS),
        "project": (draw(RANK + 2 * states, CHANNELS) / CHANNELS**0.5).to(dtype),
        "dt_weight": (draw(CHANNELS, RANK) / RANK**0.5).to(dtype),
        "dt_bias": draw(CHANNELS) - 3,
        "A": -torch.exp(draw(CHANNELS, states)),
        "D": draw(CHANNELS),
    }


@pytest.mark.parametrize("states", [16, 128])
@pytest.mark.parametrize("length", [1, 3, 100, 1001])
@pytest.mark.parametrize("packed", [False, True])
def test_agrees_with_the_plain_operations(draw, resets, compare, dtype, states, length, packed):
    inputs = layer_inputs(draw, length, states, dtype)
    if packed:
        inputs |= {"tail": draw(2, 3, CHANNELS, dtype=dtype), "state": draw(2, CHANNELS, states)}
    compare(layer, layer, inputs, {"resets_BL": resets(2, length, packed)}, BOUND[dtype])


def test_same_bits_each_time(draw):
    inputs = {key: part.requires_grad_() for key, part in layer_inputs(draw, 999, 16, torch.bfloat16).items()}
    runs = []
    for _ in range(3):
        outputs = layer(**inputs, resets_BL=None)
        loss = sum(out.float().square().sum() for out in outputs)
        runs.append([*outputs, *torch.autograd.grad(loss, list(inputs.values()))])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_layer_keeps_its_inputs_and_the_gated_output(compiled):
    """Bytes a token that a layer under autocast holds until the backward pass."""
    config = ModelConfig(pattern="m", hidden_size=256, mamba1=Mamba1(state_size=16))
    model = LanguageModel(config, 8)
    init_weights(model, 1)
    mixer = model.cuda().stack[0].mixer
    run = torch.compile(mixer, backend="aot_eager", fullgraph=True) if compiled else mixer
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens, inner, rank = 4096, 512, 16
    x_BLD = torch.randn(1, tokens, 256, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(x_BLD).sum().backward()
    # x, z, the gated output, the layer's input, dt (low rank) B C: bfloat16. A state every 256 tokens: float32.
    expected = 2 * tokens * (3 * inner + 256 + rank + 32) + 4 * tokens // 256 * 16 * inner
    parameters = sum(parameter.nbytes for parameter in mixer.parameters())
    assert sum(kept.values()) <= expected + 2 * parameters
