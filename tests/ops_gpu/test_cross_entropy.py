"""The blocked cross-entropy against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sidewinder.ops import cross_entropy_triton as form
from sidewinder.ops.cross_entropy import IGNORED, cross_entropy_reference

pytestmark = pytest.mark.gpu
# A gradient of the logits in bfloat16 has a relative error of 2⁻⁹, and the logits themselves round alike.
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture
def whole_float32() -> Iterator[None]:
    """Products of matrices without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("whole_float32")
@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 7), (50, 1000), (300, 5001), (40, 256_000)])
@pytest.mark.parametrize("block_bytes", [1 << 30, 1 << 20])
def test_agrees_with_reference(draw, compare, monkeypatch, dtype, tokens, vocabulary, block_bytes):
    monkeypatch.setattr(form, "BLOCK_BYTES", block_bytes)
    targets = (draw(tokens).abs() * vocabulary / 5).long().clamp(max=vocabulary - 1)
    targets[1::4] = IGNORED
    inputs = {"hidden_TD": draw(tokens, 64, dtype=dtype), "weight_VD": draw(vocabulary, 64, dtype=dtype) / 8}
    options = {"targets_T": targets}
    compare(form.cross_entropy_triton, cross_entropy_reference, inputs, options, BOUND[dtype])


def test_weight_wider_than_hidden(draw):
    hidden, weight = draw(64, 128, dtype=torch.bfloat16).requires_grad_(), draw(999, 128).requires_grad_()
    targets = torch.arange(64, device="cuda")
    loss = form.cross_entropy_triton(hidden, weight, targets)
    d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight))
    assert d_hidden.dtype == torch.bfloat16
    assert d_weight.dtype == torch.float32
    exact = cross_entropy_reference(hidden.detach().double(), weight.detach().double(), targets)
    assert abs(loss.item() - exact.item()) <= 1e-2 * exact.item()


def test_all_ignored_is_zero(draw):
    hidden, weight = draw(8, 32).requires_grad_(), draw(50, 32).requires_grad_()
    loss = form.cross_entropy_triton(hidden, weight, torch.full((8,), IGNORED, device="cuda"))
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss.item() == 0
    assert all(not part.any() for part in gradients)
