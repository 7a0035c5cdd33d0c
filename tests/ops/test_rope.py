"""Rotary positions against complex rotation."""

from __future__ import annotations

import pytest
import torch

from sidewinder.ops.rope import rope, rope_reference

EXACT = 1e-12


@pytest.mark.parametrize("rotated", [2, 4, 8])
@pytest.mark.parametrize("offset", [0, 1, 1000])
def test_equals_complex_rotation(rotated, offset, randn, largest_error):
    found, expected = (lambda x: rope(x, rotated, 1e4, offset)), (lambda x: rope_reference(x, rotated, 1e4, offset))
    assert largest_error(found, expected, [randn(2, 9, 3, 8)]) < EXACT


def test_scores_depend_on_distance_alone(randn):
    q_BLHE, k_BLHE = randn(1, 1, 1, 8), randn(1, 1, 1, 8)
    scores = [(rope(q_BLHE, 8, 1e4, 7 + by) * rope(k_BLHE, 8, 1e4, 3 + by)).sum() for by in (0, 5, 50_000)]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3))


def test_tables_made_while_inferring_serve_training():
    with torch.inference_mode():
        rope(torch.randn(1, 5, 2, 6), 6, 777.0)
    x_BLHE = torch.randn(1, 5, 2, 6, requires_grad=True)
    rope(x_BLHE, 6, 777.0).sum().backward()
    assert x_BLHE.grad is not None
