"""RMSNorm, zero-centred LayerNorm and the gated norm against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sidewinder.ops.gated_norm import gated_norm, gated_norm_reference
from sidewinder.ops.norms import add_rms_norm, layer_norm, layer_norm_reference, rms_norm, rms_norm_reference

EXACT = 1e-12


@pytest.mark.parametrize("shape", [(1, 8), (2, 5, 8), (3, 1, 2, 8)])
def test_norms_equal_their_definitions(shape, randn, largest_error):
    x_D, weight_D, bias_D = 3 * randn(*shape) + 1, randn(8), randn(8)
    assert (
        largest_error(lambda *p: rms_norm(*p, 1e-5), lambda *p: rms_norm_reference(*p, 1e-5), [x_D, weight_D]) < EXACT
    )
    found, expected = (lambda *p: layer_norm(*p, 1e-5)), (lambda *p: layer_norm_reference(*p, 1e-5))
    assert largest_error(found, expected, [x_D, weight_D, bias_D]) < EXACT


def test_rms_norm_equals_torch(randn):
    x_D, weight_D = randn(4, 7, 16).float(), randn(16).float()
    torch.testing.assert_close(rms_norm(x_D, weight_D, 1e-5), F.rms_norm(x_D, (16,), weight_D, 1e-5))


def test_a_stream_is_added_to_before_its_norm(randn, largest_error):
    def expected(x_D, update_D, weight_D):
        return torch.cat([x_D + update_D, rms_norm_reference(x_D + update_D, weight_D, 1e-5)])

    def found(*inputs):
        return torch.cat(add_rms_norm(*inputs, 1e-5))

    assert largest_error(found, expected, [randn(4, 8), randn(4, 8), randn(8)]) < EXACT
    x_D, weight_D = randn(4, 8), randn(8)
    stream_D, normed_D = add_rms_norm(x_D, None, weight_D, 1e-5)
    assert stream_D is x_D
    assert torch.equal(normed_D, rms_norm(x_D, weight_D, 1e-5))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gated_norm_equals_its_definition(groups, randn, largest_error):
    inputs = [randn(2, 5, 8), randn(2, 5, 8), randn(8)]
    found, expected = (lambda *p: gated_norm(*p, 1e-5, groups)), (lambda *p: gated_norm_reference(*p, 1e-5, groups))
    assert largest_error(found, expected, inputs) < EXACT


def test_gated_norm_normalises_each_group_alone(randn):
    x_BD, z_BD = randn(3, 12), randn(3, 12)
    y_BGE = gated_norm(x_BD, z_BD, torch.ones(12, dtype=torch.float64), 0.0, 3).unflatten(-1, (3, 4))
    torch.testing.assert_close(y_BGE.square().mean(-1), torch.ones(3, 3, dtype=torch.float64))
