"""Exact sizes of the paper's models, and counts that follow from the model itself."""

from __future__ import annotations

import pytest

from sidewinder.config.model import Attention, Mamba1, Mamba2, Mlp, ModelConfig, Rope
from sidewinder.model import cache_bytes, count_parameters, flops_per_token

VOCABULARY = 256_000
MULTI_HEAD = Attention(heads=32, kv_heads=32, head_size=128, rope=Rope())
HYBRID_8B = ModelConfig(pattern="M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-")
TRANSFORMER_8B = ModelConfig(
    pattern="*-" * 32, norm="layernorm", attention=MULTI_HEAD, mlp=Mlp(size=16_384, activation="relu2")
)
PAPER = {
    "hybrid": (HYBRID_8B, 8_654_517_248),
    "mamba2": (ModelConfig(pattern="M" * 56), 8_236_999_680),
    "transformer, squared ReLU": (TRANSFORMER_8B, 8_540_135_424),
    "transformer, SwiGLU": (
        TRANSFORMER_8B.model_copy(update={"mlp": Mlp(size=10_880, activation="swiglu")}),
        8_523_358_208,
    ),
    "mamba, state 128": (ModelConfig(pattern="m" * 56), 8_148_783_104),
    "mamba, state 16": (ModelConfig(pattern="m" * 56, mamba1=Mamba1(state_size=16)), 7_994_642_432),
}


@pytest.mark.parametrize("name", sorted(PAPER))
def test_paper_sizes(name):
    config, parameters = PAPER[name]
    counts = count_parameters(config, VOCABULARY)
    assert counts.total == parameters
    assert counts.non_embedding == parameters - 2 * VOCABULARY * 4096
    assert sum(counts.by_kind.values()) == parameters


def test_paper_layer_sizes():
    by_kind = count_parameters(HYBRID_8B, VOCABULARY).by_kind
    assert by_kind["mamba2"] == 24 * 109_640_064
    assert by_kind["attention"] == 4 * 41_947_136
    assert by_kind["mlp"] == 28 * 134_221_824
    assert by_kind["final_norm"] == 4096


def test_counts_equal_the_real_model(config, model):
    counts = count_parameters(config, model.vocab_size)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())


def test_cache_of_the_paper_models():
    assert cache_bytes(TRANSFORMER_8B).per_token == 524_288
    assert cache_bytes(HYBRID_8B).per_token == 16_384
    states = 24 * 128 * 64 * 128 * 2
    assert states == 50_331_648
    convolutions = 24 * 3 * 10_240 * 2
    assert cache_bytes(HYBRID_8B, state_bytes=2).per_sequence == states + convolutions
    assert cache_bytes(HYBRID_8B, state_bytes=2).at(100, sequences=2) == 2 * (states + convolutions + 100 * 16_384)


@pytest.mark.parametrize("name", sorted(PAPER))
def test_flops_are_six_a_weight_and_the_mixing_of_tokens(name):
    config, parameters = PAPER[name]
    weights = 6 * (parameters - VOCABULARY * 4096)
    mixing = flops_per_token(config, VOCABULARY, 4096) - weights
    assert 0 < mixing < 0.15 * weights
    growth = flops_per_token(config, VOCABULARY, 8192) - flops_per_token(config, VOCABULARY, 4096)
    assert growth == config.layers.count("*") * 6 * 4096 * 4096


def test_flops_of_one_small_layer_by_hand():
    config = ModelConfig(
        pattern="M", hidden_size=8, mamba2=Mamba2(state_size=4, head_size=8, groups=1, conv_width=2, chunk=8)
    )
    projections = 8 * (16 + 24 + 2) + 16 * 8
    forward = 2 * (projections + 8 * 10) + 2 * 2 * 24 + 5 * 16 * 4
    assert flops_per_token(config, 10, 64) == 3 * forward
