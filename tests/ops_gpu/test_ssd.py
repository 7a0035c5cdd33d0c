"""The Triton SSD against the float64 recurrence, and against mamba-ssm's kernels where they are installed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.ops.ssd import ssd_reference
from sidewinder.ops.ssd_launches import plan_for, plan_of
from sidewinder.ops.ssd_triton import ssd_triton

pytestmark = pytest.mark.gpu
BOUND = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
# Heads, channels of each, groups, states.
SHAPES = [(4, 64, 2, 128), (8, 64, 1, 64), (2, 128, 1, 128), (4, 32, 2, 16), (2, 64, 1, 256), (3, 48, 3, 40)]


def ssd_inputs(draw, length, dtype, shape=(4, 64, 2, 64)):
    heads, size, groups, states = shape
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


@pytest.mark.parametrize("kind", list(BOUND), ids=["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=[f"heads{h}x{p}-groups{g}-states{n}" for h, p, g, n in SHAPES])
def test_shapes(draw, resets, compare, shape, kind):
    heads, size, _, states = shape
    inputs = ssd_inputs(draw, 300, kind, shape) | {"initial_BHPN": draw(2, heads, size, states)}
    compare(ssd_triton, reference_without_chunk, inputs, {"chunk": 128, "resets_BL": resets(2, 300, True)}, BOUND[kind])


def test_blocks_for_a_small_gpu(draw, resets, compare, monkeypatch):
    small = plan_of(torch.bfloat16, 128, 100_000)
    assert small != plan_for(torch.empty(0, dtype=torch.bfloat16, device="cuda"), 128)
    monkeypatch.setattr("sidewinder.ops.ssd_launches.plan_for", lambda *_: small)
    inputs = ssd_inputs(draw, 150, torch.bfloat16, (4, 64, 2, 128))
    options = {"chunk": 128, "resets_BL": resets(2, 150, True)}
    compare(ssd_triton, reference_without_chunk, inputs, options, BOUND[torch.bfloat16])


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


def test_same_bits_each_time(draw):
    inputs = {key: part.requires_grad_() for key, part in ssd_inputs(draw, 999, torch.bfloat16).items()}
    runs = []
    for _ in range(3):
        outputs = ssd_triton(**inputs, chunk=128)
        loss = sum(out.float().square().sum() for out in outputs)
        runs.append([*outputs, *torch.autograd.grad(loss, list(inputs.values()))])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


def test_no_compilation_for_another_length(draw):
    """A sequence of another length or number of chunks runs the kernels that are there.

    One token does not: whatever strides its tensors have, some are 1. It is stepped, not scanned, where it matters.
    """
    from sidewinder.ops.kernels import ssd as kernels
    from sidewinder.ops.kernels import ssd_backward as backward_kernels

    every = (kernels.states_kernel, kernels.output_kernel, backward_kernels.key_gradient_kernel)

    def run(length):
        inputs = {key: part.requires_grad_() for key, part in ssd_inputs(draw, length, torch.bfloat16).items()}
        y, _ = ssd_triton(**inputs, chunk=128)
        y.sum().backward()
        return [sum(len(cache[0]) for cache in kernel.device_caches.values()) for kernel in every]

    compiled = run(1000)
    assert [run(length) for length in (2, 65, 999, 4096)] == [compiled] * 4


def test_mamba_ssm_agrees(draw, monkeypatch):
    monkeypatch.setenv("MAMBA_DETERMINISTIC", "1")  # It then takes one launch of each kernel and times none.
    combined = pytest.importorskip("mamba_ssm.ops.triton.ssd_combined")
    inputs = ssd_inputs(draw, 700, torch.bfloat16, (8, 64, 2, 128))
    document_BL = (draw(2, 700) > 2.0).cumsum(1, dtype=torch.int32)
    resets_BL = torch.diff(document_BL, dim=1, prepend=document_BL[:, :1] * 0) > 0

    def theirs(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H):
        return combined.mamba_chunk_scan_combined(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, 128, D=D_H, seq_idx=document_BL)

    results, d_y = [], draw(2, 700, 8, 64, dtype=torch.bfloat16)
    for form in (theirs, lambda **given: ssd_triton(**given, chunk=128, resets_BL=resets_BL)[0]):
        leaves = {key: part.detach().requires_grad_() for key, part in inputs.items()}
        y = form(**leaves)
        results.append([y.detach(), *torch.autograd.grad(y, list(leaves.values()), d_y)])
    for peer, ours in zip(*results, strict=True):
        assert (peer.float() - ours.float()).norm() <= 2e-2 * peer.float().norm()
