"""The Triton gated norm against float64."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.ops.gated_norm import gated_norm_reference
from sidewinder.ops.gated_norm_triton import gated_norm_triton

pytestmark = pytest.mark.gpu
BOUND = {torch.float32: 1e-6, torch.bfloat16: 5e-3}


@pytest.mark.parametrize(("channels", "groups"), [(48, 1), (1536, 8), (8192, 8), (5000, 1)])
@pytest.mark.parametrize("length", [1, 7, 1000])
def test_agrees_with_reference(draw, compare, dtype, length, channels, groups):
    wide = draw(2, length, channels * 2, dtype=dtype)
    inputs = {"x_D": draw(2, length, channels, dtype=dtype), "z_D": wide[..., :channels], "weight_D": draw(channels)}
    options = {"eps": 1e-5, "groups": groups}
    compare(gated_norm_triton, gated_norm_reference, inputs, options, BOUND[dtype])
