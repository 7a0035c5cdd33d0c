"""The joined operation of a Mamba-2 layer against the plain ones in float64, and what the layer keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.config.model import Mamba2, ModelConfig
from sidewinder.model import LanguageModel, init_weights
from sidewinder.ops.mamba2 import Inside, mix

pytestmark = pytest.mark.gpu
# Between the operations numbers are rounded to the type: errors of bfloat16 add up.
BOUND = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
HEADS, SIZE, GROUPS, STATES = 4, 64, 2, 64
INNER, CONVOLVED = HEADS * SIZE, HEADS * SIZE + 2 * GROUPS * STATES


def layer(projected, weight, bias, dt_bias, A, D, norm, tail=None, state=None, *, resets_BL):
    inside = Inside(weight, bias, dt_bias, A, D, norm, GROUPS, 128, 1e-5)
    return mix(projected, inside, tail_BSC=tail, initial_BHPN=state, resets_BL=resets_BL)


def layer_inputs(draw, length, dtype):
    return {
        "projected": draw(2, length, INNER + CONVOLVED + HEADS + 12, dtype=dtype)[..., : INNER + CONVOLVED + HEADS],
        "weight": draw(CONVOLVED, 1, 4) / 2,
        "bias": draw(CONVOLVED),
        "dt_bias": draw(HEADS) - 3,
        "A": -torch.exp(draw(HEADS)),
        "D": draw(HEADS),
        "norm": draw(INNER),
    }


@pytest.mark.parametrize("length", [1, 3, 100, 1001])
@pytest.mark.parametrize("packed", [False, True])
def test_agrees_with_the_plain_operations(draw, resets, compare, dtype, length, packed):
    inputs = layer_inputs(draw, length, dtype)
    if packed or length == 1:  # Without a state before it, one token has no gradient of A.
        inputs |= {"tail": draw(2, 3, CONVOLVED, dtype=dtype), "state": draw(2, HEADS, SIZE, STATES)}
    compare(layer, layer, inputs, {"resets_BL": resets(2, length, packed)}, BOUND[dtype])


@pytest.mark.parametrize("compiled", [False, True])
def test_layer_keeps_its_projection_and_outputs(compiled):
    """Bytes a token that a layer under autocast holds until the backward pass."""
    config = ModelConfig(pattern="M", hidden_size=256, mamba2=Mamba2(state_size=64, groups=2))
    model = LanguageModel(config, 8)
    init_weights(model, 1)
    mixer = model.cuda().stack[0].mixer
    run = torch.compile(mixer, backend="aot_eager", fullgraph=True) if compiled else mixer
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens, inner, heads = 4096, 512, 8
    x_BLD = torch.randn(1, tokens, 256, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(x_BLD).sum().backward()
    # The layer's input; z, x, B, C, dt; the scan's output and its norm: bfloat16. 1 / rms of two groups: float32.
    expected = 2 * tokens * (256 + 2 * inner + 2 * 2 * 64 + heads + 2 * inner) + 4 * tokens * 2
    parameters = sum(parameter.nbytes for parameter in mixer.parameters())
    assert sum(kept.values()) <= expected + 2 * parameters
