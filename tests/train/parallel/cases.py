"""Small models and data that the tests of parallel training share with the ranks that they start."""

from __future__ import annotations

from typing import Any

import numpy as np

from sidewinder.config.mesh import Mesh
from sidewinder.config.model import ModelConfig
from sidewinder.config.training import Training

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "attention": {"heads": 4, "kv_heads": 2, "head_size": 8},
    "mlp": {"size": 40},
    "mamba1": {"state_size": 4, "dt_rank": 3},
    "mamba2": {"state_size": 8, "head_size": 8, "groups": 2, "chunk": 8},
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "transformer": SIZES
    | {"pattern": "*-*-", "norm": "layernorm", "mlp": {"size": 40, "activation": "relu2"}}
    | {"attention": SIZES["attention"] | {"rope": {}}},
    "swiglu": SIZES | {"pattern": "*-", "mlp": {"size": 40, "activation": "swiglu"}},
    "mamba": SIZES | {"pattern": "mm"},
    "mamba2": SIZES | {"pattern": "MM"},
    "hybrid": SIZES | {"pattern": "M-*M"},
    # Three heads, one group, one key-value head: nothing that context parallelism could divide.
    "odd": SIZES
    | {"pattern": "M*", "attention": {"heads": 3, "kv_heads": 1, "head_size": 8}}
    | {"mamba2": {"state_size": 4, "head_size": 16, "groups": 1, "chunk": 8}},
}


class Made:
    """Sequences of skewed random tokens: a pure function of their number, with an end of document now and then."""

    eos, bytes_per_token = 2, None

    def __init__(self, context_tokens: int) -> None:
        self.context_tokens = context_tokens

    def sequences(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        rows = []
        for number in range(first, first + count):
            generator = np.random.default_rng([7, number])
            tokens = np.minimum(3 + generator.geometric(0.1, self.context_tokens + 1), VOCABULARY - 1)
            rows.append(np.where(generator.random(self.context_tokens + 1) < 0.1, self.eos, tokens))
        tokens_BL = np.stack(rows).astype(np.int64)
        return tokens_BL[:, :-1], tokens_BL[:, 1:]

    def position(self, first: int) -> dict[str, Any]:
        return {"made": first}


# Large enough for every kernel of a GPU.
WIDE: dict[str, Any] = {
    "hidden_size": 128,
    "attention": {"heads": 4, "kv_heads": 2, "head_size": 32},
    "mlp": {"size": 256},
    "mamba1": {"state_size": 16, "dt_rank": 16},
    "mamba2": {"state_size": 32, "head_size": 32, "groups": 2, "chunk": 32},
}


def model_config(case: dict[str, Any]) -> ModelConfig:
    config = ARCHITECTURES[case["architecture"]]
    if case.get("wide"):
        config = config | {key: config[key] | WIDE[key] if key != "hidden_size" else WIDE[key] for key in WIDE}
    return ModelConfig.model_validate(config | case.get("sizes", {}))


def training_of(case: dict[str, Any], mesh: Mesh) -> Training:
    values = {
        "context_tokens": 32,
        "batch_sequences": 8,
        "budget_tokens": 5 * 8 * 32,
        "learning_rate": 1e-2,
        "minimum_learning_rate": 1e-3,
        "warmup_sequences": 8,
        "save_every_tokens": 10**9,
    }
    return Training.model_validate(values | case.get("training", {}) | {"mesh": mesh})
