"""bfloat16 on a CPU: `precision: bfloat16` (autocast over weights that stay in float32), and weights rounded to it."""

from __future__ import annotations

import copy

import pytest
import torch


@pytest.mark.parametrize("packed", [False, True])
def test_bfloat16_gradients_are_near_those_of_float32(packed, model, tokens_of):
    tokens_BL, targets_BL = tokens_of(2, 70), tokens_of(2, 70).flip(1)
    resets_BL = torch.zeros(2, 70, dtype=torch.bool)
    resets_BL[0, 33] = resets_BL[1, 48] = packed
    found = []
    for enabled in (False, True):
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model.loss(tokens_BL, targets_BL, resets_BL if packed else None)
        loss.backward()
        found.append((loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])))
    (exact_loss, exact), (loss, gradient) = found
    assert loss == pytest.approx(exact_loss, rel=5e-3)
    assert gradient.dtype == torch.float32
    assert float((gradient - exact).norm() / exact.norm()) < 3e-2


@torch.no_grad()
def test_weights_in_bfloat16_are_near(model, tokens_of):
    """As evaluation loads them; the reference has the same rounded weights."""
    tokens_BL = tokens_of(2, 200)
    reference = copy.deepcopy(model.bfloat16()).double()
    found_BLV, exact_BLV = model(tokens_BL), reference(tokens_BL)
    assert float((found_BLV - exact_BLV).norm() / exact_BLV.norm()) < 2e-2
