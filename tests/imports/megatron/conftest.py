"""Small models with random weights, and the writer of Megatron files (writer.py)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sidewinder.config.model import ModelConfig
from sidewinder.model import LanguageModel, init_weights

VOCABULARY = 96
MAMBA2 = {"state_size": 16, "head_size": 8, "groups": 4}
ATTENTION = {"heads": 8, "kv_heads": 4, "head_size": 8}
ROPE = {"rope": {"fraction": 0.5}}
CONFIGS: dict[str, dict[str, Any]] = {
    "hybrid": {"pattern": "M-M*-M", "attention": ATTENTION, "mlp": {"size": 48}, "mamba2": MAMBA2},
    "mamba2": {"pattern": "MMMM", "mamba2": MAMBA2},
    "transformer": {
        "pattern": "*-*-*-",
        "norm": "layernorm",
        "attention": ATTENTION | ROPE | {"kv_heads": 8},
        "mlp": {"size": 64, "activation": "relu2"},
    },
    "swiglu": {
        "pattern": "*-*-",
        "norm": "layernorm",
        "attention": ATTENTION | {"rope": {"fraction": 1.0, "base": 50_000}},
        "mlp": {"size": 40, "activation": "swiglu"},
    },
}


def _load(name: str) -> ModuleType:
    """A helper module beside this file; tests are not a package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location(f"megatron_{name}", Path(__file__).parent / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def writer() -> ModuleType:
    torch.set_num_threads(1)
    return _load("writer")


@pytest.fixture(scope="session")
def make_model() -> Any:
    """Makes a model of CONFIGS whose weights are nowhere neutral, and are the same in bfloat16 and float32."""

    def make(name: str, **changed: Any) -> LanguageModel:
        model = LanguageModel(ModelConfig.model_validate({"hidden_size": 32} | CONFIGS[name] | changed), VOCABULARY)
        init_weights(model, 3)
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(parameter.bfloat16())
        return model

    return make
