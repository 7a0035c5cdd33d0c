"""Training in bfloat16 on a CPU, as `precision: bfloat16` does it: autocast over weights that stay in float32."""

from __future__ import annotations

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
