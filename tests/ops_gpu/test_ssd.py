"""mamba-ssm's SSD kernels through the adapter, against the float64 recurrence: states and resets are given rightly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.ops.ssd import ssd_reference
from sidewinder.ops.ssd_triton import ssd_triton

pytestmark = pytest.mark.gpu
# Products of float32 run as tf32 in these kernels, and states go between chunks in the type of C.
BOUND = {torch.float32: 3e-3, torch.bfloat16: 2e-2}


def ssd_inputs(draw, length, dtype):
    heads, size, groups, states = 4, 64, 2, 64
    wide = draw(2, length, heads * size + 2 * groups * states + 16, dtype=dtype)
    x, b, c, _ = wide.split([heads * size, groups * states, groups * states, 16], dim=-1)
    return {
        "x_BLHP": x.unflatten(-1, (heads, size)),
        "dt_BLH": F.softplus(draw(2, length, heads) - 3).to(dtype),
        "A_H": -torch.exp(draw(heads)),
        "B_BLGN": b.unflatten(-1, (groups, states)),
        "C_BLGN": c.unflatten(-1, (groups, states)),
        "D_H": draw(heads),
    }


def reference_without_chunk(*, chunk, **inputs):
    return ssd_reference(**inputs)


def test_agrees_with_reference(draw, resets, compare, case, dtype):
    length, initial, packed = case
    inputs = ssd_inputs(draw, length, dtype)
    if initial:
        inputs["initial_BHPN"] = draw(2, 4, 64, 64)
    options = {"chunk": 128, "resets_BL": resets(2, length, packed)}
    compare(ssd_triton, reference_without_chunk, inputs, options, BOUND[dtype])


def test_continuing_equals_one_pass(draw):
    inputs = ssd_inputs(draw, 300, torch.bfloat16)
    whole, final = ssd_triton(**inputs, chunk=128)
    timed = ("x_BLHP", "dt_BLH", "B_BLGN", "C_BLGN")
    first = {key: part[:, :170] if key in timed else part for key, part in inputs.items()}
    rest = {key: part[:, 170:] if key in timed else part for key, part in inputs.items()}
    head, state = ssd_triton(**first, chunk=128)
    tail, end = ssd_triton(**rest, chunk=128, initial_BHPN=state)
    joined = torch.cat([head, tail], dim=1)
    assert (joined - whole).float().norm() <= 1e-2 * whole.float().norm()
    assert (end - final).norm() <= 1e-2 * final.norm()
