"""Small models of every architecture, with weights that are nowhere at their neutral values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sidewinder.config.model import Attention, Mamba1, Mamba2, Mlp, ModelConfig, Rope
from sidewinder.model import LanguageModel, init_weights

VOCABULARY = 97

_MAMBA2 = Mamba2(state_size=8, head_size=8, groups=2, chunk=16)
SMALL = {
    "transformer": ModelConfig(
        pattern="*-*-",
        hidden_size=32,
        norm="layernorm",
        attention=Attention(heads=4, kv_heads=4, head_size=8, rope=Rope()),
        mlp=Mlp(size=48, activation="relu2"),
    ),
    "swiglu": ModelConfig(
        pattern="*-*-",
        hidden_size=32,
        attention=Attention(heads=4, kv_heads=2, head_size=8, rope=Rope(fraction=1.0)),
        mlp=Mlp(size=40, activation="swiglu"),
    ),
    "hybrid": ModelConfig(
        pattern="M-M*-M-",
        hidden_size=32,
        attention=Attention(heads=4, kv_heads=2, head_size=8),
        mlp=Mlp(size=48),
        mamba2=_MAMBA2,
    ),
    "mamba2": ModelConfig(pattern="MMM", hidden_size=32, mamba2=_MAMBA2),
    "mamba": ModelConfig(pattern="mmm", hidden_size=32, mamba1=Mamba1(state_size=6)),
    "all": ModelConfig(
        pattern="mM*-",
        hidden_size=32,
        attention=Attention(heads=4, kv_heads=1, head_size=8, rope=Rope()),
        mlp=Mlp(size=48),
        mamba2=_MAMBA2,
        mamba1=Mamba1(state_size=6),
    ),
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """For sizes as small as these, threads cost more than they give."""
    torch.set_num_threads(1)


MakeModel = Callable[[ModelConfig], LanguageModel]


@pytest.fixture(params=sorted(SMALL))
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return SMALL[request.param]


@pytest.fixture
def make_model() -> MakeModel:
    """Initialises and then shakes every weight, so that no norm, skip or bias is at one or zero."""

    def make(config: ModelConfig) -> LanguageModel:
        model = LanguageModel(config, VOCABULARY)
        init_weights(model, 3)
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return model

    return make


@pytest.fixture
def model(config: ModelConfig, make_model: MakeModel) -> LanguageModel:
    return make_model(config)


@pytest.fixture
def tokens_of() -> Callable[[int, int], torch.Tensor]:
    """Seeded tokens (batch, length)."""
    return lambda batch, length: torch.randint(
        0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(length)
    )
