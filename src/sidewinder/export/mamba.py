"""State-space classes of transformers: Mamba (1), Mamba-2, and NemotronH for hybrids.

All three have one norm a layer and call its parts as we do, so that names differ in their prefixes alone.
"""

from __future__ import annotations

from typing import Any

from sidewinder.config.model import ModelConfig
from sidewinder.export.target import Settings, Target, activation_objection, norm_objection, pattern_objection

# NemotronH clamps step sizes from below at this value, where we do not. It must be above zero, because the class takes
# its logarithm when it makes new weights, and be too small to matter.
SMALLEST_TIME_STEP = 1e-30
LAYER_TYPES = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}
LETTERS = {kind: letter for letter, kind in LAYER_TYPES.items()} | {"moe": "E"}  # No layer of ours: it will be named.
PREFIXES = {
    "embedding.": "backbone.embeddings.",
    "layers.": "backbone.layers.",
    "final_norm.": "backbone.norm_f.",
    "head.": "lm_head.",
}
MIXER = {"use_bias": False, "use_conv_bias": True}
# Whether residuals are kept in float32 is a matter of precision; chunks, of speed.
PRECISION = frozenset({"residual_in_fp32", "chunk_size"})


def _name(name: str) -> str:
    prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    return PREFIXES[prefix] + name.removeprefix(prefix)


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
    }


def _read_mamba1(settings: Settings) -> dict[str, Any]:
    return {
        "pattern": "m" * settings["num_hidden_layers"],
        "norm_eps": settings["layer_norm_epsilon"],
        "mamba1": {
            "state_size": settings["state_size"],
            "expand": settings["expand"],
            "conv_width": settings["conv_kernel"],
            "dt_rank": settings["time_step_rank"],
        },
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
    }


def _read_mamba2(settings: Settings) -> dict[str, Any]:
    return {
        "pattern": "M" * settings["num_hidden_layers"],
        "norm_eps": settings["layer_norm_epsilon"],
        "mamba2": {
            "state_size": settings["state_size"],
            "head_size": settings["head_dim"],
            "groups": settings["n_groups"],
            "expand": settings["expand"],
            "conv_width": settings["conv_kernel"],
            "chunk": settings["chunk_size"],
        },
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
        "intermediate_size": model.mlp.size,
        "mlp_hidden_act": model.mlp.activation,
        "ssm_state_size": sizes.state_size,
        "expand": sizes.expand,
        "mamba_num_heads": model.hidden_size * sizes.expand // sizes.head_size,
        "mamba_head_dim": sizes.head_size,
        "n_groups": sizes.groups,
        "conv_kernel": sizes.conv_width,
        "chunk_size": sizes.chunk,
        "layer_norm_epsilon": model.norm_eps,
    }


def _read_nemotron_h(settings: Settings) -> dict[str, Any]:
    inner = settings["mamba_num_heads"] * settings["mamba_head_dim"]  # The class does not look at `expand`.
    return {
        "pattern": "".join(LETTERS.get(kind, "?") for kind in settings["layers_block_type"]),
        "norm_eps": settings["layer_norm_epsilon"],
        "attention": {
            "heads": settings["num_attention_heads"],
            "kv_heads": settings["num_key_value_heads"],
            "head_size": settings["head_dim"],
        },
        "mlp": {"size": settings["intermediate_size"], "activation": settings["mlp_hidden_act"]},
        "mamba2": {
            "state_size": settings["ssm_state_size"],
            "head_size": settings["mamba_head_dim"],
            "groups": settings["n_groups"],
            "expand": inner / settings["hidden_size"],
            "conv_width": settings["conv_kernel"],
            "chunk": settings["chunk_size"],
        },
    }


def _nemotron_h_remarks(settings: Settings) -> list[str]:
    smallest = settings["time_step_min"]
    if not smallest > SMALLEST_TIME_STEP:
        return []
    return [
        f"time_step_min: transformers raises step sizes below {smallest:g} to it, except in one-token steps; "
        "Megatron-LM, which trains these models, does not, and neither do we, so that logits may differ a little"
    ]


MAMBA = Target(
    "MambaForCausalLM",
    "mamba",
    _against_mamba1,
    _mamba1,
    _read_mamba1,
    _name,
    constants={"hidden_act": "silu", **MIXER, "residual_in_fp32": True},
    harmless=PRECISION,
    older_names={"backbone.embedding.": "backbone.embeddings."},
)
MAMBA2 = Target(
    "Mamba2ForCausalLM",
    "mamba2",
    _against_mamba2,
    _mamba2,
    _read_mamba2,
    _name,
    constants={"hidden_act": "silu", **MIXER, "residual_in_fp32": True},
    assumed={"time_step_limit": [0.0, float("inf")]},
    harmless=PRECISION,
    older_names={"backbone.embedding.": "backbone.embeddings."},
)
NEMOTRON_H = Target(
    "NemotronHForCausalLM",
    "nemotron_h",
    _against_nemotron_h,
    _nemotron_h,
    _read_nemotron_h,
    _name,
    constants={
        "attention_bias": False,
        "mlp_bias": False,
        "mamba_hidden_act": "silu",
        **MIXER,
        "time_step_min": SMALLEST_TIME_STEP,
        "residual_in_fp32": False,
    },
    assumed={"sliding_window": None, "time_step_limit": [0.0, float("inf")]},
    harmless=PRECISION | {"expand", "time_step_min"},
    older_names={"model.": "backbone."},
    ignored=r"mtp\..*",
    remarks=_nemotron_h_remarks,
)
