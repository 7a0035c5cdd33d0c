"""First values: the paper's distributions, the same for a seed wherever and in whatever precision they are made."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sidewinder.config.model import Attention, Mamba1, Mamba2, Mlp, ModelConfig
from sidewinder.model import LanguageModel, init_weights
from sidewinder.model.init import residual_depth

CONFIG = ModelConfig(
    pattern="Mm*-",
    hidden_size=256,
    attention=Attention(heads=4, kv_heads=4, head_size=64),
    mlp=Mlp(size=512, activation="swiglu"),
    mamba2=Mamba2(state_size=32, head_size=4, groups=2),
    mamba1=Mamba1(state_size=16),
)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    model = LanguageModel(CONFIG, 1000)
    init_weights(model, 7)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("embedding.weight", 0.02),
        ("head.weight", 0.02),
        ("layers.2.mixer.q_proj.weight", 0.02),
        ("layers.2.mixer.k_proj.weight", 0.02),
        ("layers.2.mixer.v_proj.weight", 0.02),
        ("layers.3.mixer.up_proj.weight", 0.02),
        ("layers.3.mixer.gate_proj.weight", 0.02),
        ("layers.2.mixer.o_proj.weight", 0.02 / math.sqrt(8)),
        ("layers.3.mixer.down_proj.weight", 0.02 / math.sqrt(8)),
        ("layers.0.mixer.out_proj.weight", 0.02 / math.sqrt(4)),
        ("layers.1.mixer.out_proj.weight", 0.02 / math.sqrt(4)),
    ],
)
def test_normal_weights(name, std, weights):
    assert abs(float(weights[name].std()) / std - 1) < 0.02
    assert abs(float(weights[name].mean())) < 0.02 * std


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("layers.0.mixer.in_proj.weight", 256**-0.5),
        ("layers.1.mixer.in_proj.weight", 256**-0.5),
        ("layers.1.mixer.x_proj.weight", 512**-0.5),
        ("layers.1.mixer.dt_proj.weight", 16**-0.5),
        ("layers.0.mixer.conv1d.weight", 0.5),
        ("layers.0.mixer.conv1d.bias", 0.5),
        ("layers.1.mixer.conv1d.weight", 0.5),
    ],
)
def test_uniform_weights(name, bound, weights):
    assert 0.98 * bound < float(weights[name].abs().max()) <= bound
    assert abs(float(weights[name].std()) * math.sqrt(3) / bound - 1) < 0.05


def test_time_scales(weights):
    for name in ("layers.0.mixer.dt_bias", "layers.1.mixer.dt_proj.bias"):
        dt = F.softplus(weights[name].double())
        assert float(dt.min()) > 0.00099
        assert float(dt.max()) < 0.1001
        assert abs(float(dt.log().mean()) - math.log(0.01)) < 0.4
    rates = weights["layers.0.mixer.A_log"].exp()
    assert float(rates.min()) >= 1
    assert float(rates.max()) <= 16
    torch.testing.assert_close(weights["layers.1.mixer.A_log"].exp()[5], torch.arange(1.0, 17.0))
    assert torch.equal(weights["layers.0.mixer.D"], torch.ones(128))


def test_norms_start_neutral(weights):
    assert torch.equal(weights["layers.0.mixer.norm.weight"], torch.ones(512))
    assert torch.equal(weights["final_norm.weight"], torch.ones(256))
    model = LanguageModel(CONFIG.model_copy(update={"norm": "layernorm"}), 10)
    init_weights(model, 0)
    assert torch.equal(model.final_norm.weight, torch.zeros(256))


def test_seed_alone_decides(weights):
    global_state = torch.get_rng_state()
    again = LanguageModel(CONFIG, 1000).to(torch.bfloat16)
    init_weights(again, 7)
    assert torch.equal(torch.get_rng_state(), global_state)
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, weights[name].bfloat16()), name
    init_weights(again, 8)
    assert not torch.equal(again.head.weight, weights["head.weight"].bfloat16())


def test_depth_counts_pairs_of_a_transformer_once():
    assert residual_depth("*-" * 32) == 32
    assert residual_depth("M-M*-") == 5
    assert residual_depth("mmm") == 3
