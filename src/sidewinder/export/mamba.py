"""State-space classes of transformers: Mamba (1), Mamba-2, and NemotronH for hybrids.

All three have one norm a layer and call its parts as we do, so that names differ in their prefixes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sidewinder.config.model import ModelConfig
from sidewinder.export.target import (
    Target,
    Weights,
    activation_objection,
    norm_objection,
    pattern_objection,
    renamed,
)

if TYPE_CHECKING:
    from torch import Tensor

# NemotronH clamps step sizes from below at this value, where we do not. It must be above zero, because the class takes
# its logarithm when it makes new weights, and be too small to matter.
SMALLEST_TIME_STEP = 1e-30
LAYER_TYPES = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}


def _weights(weights: Mapping[str, Tensor]) -> Weights:
    prefixes = {
        "embedding.": "backbone.embeddings.",
        "layers.": "backbone.layers.",
        "final_norm.": "backbone.norm_f.",
        "head.": "lm_head.",
    }
    return renamed(weights, prefixes)


def _against_mamba1(model: ModelConfig) -> list[str]:
    return pattern_objection(model, "m") + norm_objection(model, "rmsnorm")


def _mamba1(model: ModelConfig) -> dict[str, Any]:
    sizes = model.mamba1
    return {
        "num_hidden_layers": len(model.layers),
        "state_size": sizes.state_size,
        "expand": sizes.expand,
        "conv_kernel": sizes.conv_width,
        "time_step_rank": sizes.dt_rank or -(-model.hidden_size // 16),
        "layer_norm_epsilon": model.norm_eps,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
    }


def _against_mamba2(model: ModelConfig) -> list[str]:
    return pattern_objection(model, "M") + norm_objection(model, "rmsnorm")


def _mamba2(model: ModelConfig) -> dict[str, Any]:
    sizes = model.mamba2
    return {
        "num_hidden_layers": len(model.layers),
        "state_size": sizes.state_size,
        "expand": sizes.expand,
        "num_heads": model.hidden_size * sizes.expand // sizes.head_size,
        "head_dim": sizes.head_size,
        "n_groups": sizes.groups,
        "conv_kernel": sizes.conv_width,
        "chunk_size": sizes.chunk,
        "layer_norm_epsilon": model.norm_eps,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
    }


def _against_nemotron_h(model: ModelConfig) -> list[str]:
    # Without an attention layer the class loads, but fails as soon as it caches.
    found = pattern_objection(model, "M*-", needed="*") + norm_objection(model, "rmsnorm")
    if model.attention.rope is not None and "*" in model.layers:
        found.append("attention.rope: null only")
    return found + activation_objection(model, "gelu", "relu2")


def _nemotron_h(model: ModelConfig) -> dict[str, Any]:
    sizes, attention = model.mamba2, model.attention
    return {
        "layers_block_type": [LAYER_TYPES[letter] for letter in model.layers],
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_size,
        "attention_bias": False,
        "intermediate_size": model.mlp.size,
        "mlp_hidden_act": model.mlp.activation,
        "mlp_bias": False,
        "ssm_state_size": sizes.state_size,
        "expand": sizes.expand,
        "mamba_num_heads": model.hidden_size * sizes.expand // sizes.head_size,
        "mamba_head_dim": sizes.head_size,
        "n_groups": sizes.groups,
        "conv_kernel": sizes.conv_width,
        "chunk_size": sizes.chunk,
        "time_step_min": SMALLEST_TIME_STEP,
        "layer_norm_epsilon": model.norm_eps,
        "mamba_hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": False,
    }


MAMBA = Target("MambaForCausalLM", "mamba", _against_mamba1, _mamba1, _weights)
MAMBA2 = Target("Mamba2ForCausalLM", "mamba2", _against_mamba2, _mamba2, _weights)
NEMOTRON_H = Target("NemotronHForCausalLM", "nemotron_h", _against_nemotron_h, _nemotron_h, _weights)
