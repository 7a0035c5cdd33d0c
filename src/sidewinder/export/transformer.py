"""Transformer classes of transformers: Nemotron, Llama and StableLM.

Each block of these holds an attention and an MLP, so the pattern must be `*-` repeated. RoPE pairs channel i with
channel i + half in all three, as we do.
"""

from __future__ import annotations

import re
from typing import Any

from sidewinder.config.model import ModelConfig
from sidewinder.export.target import Settings, Target, activation_objection, norm_objection

LAYER = re.compile(r"layers\.(\d+)\.(norm|mixer)\.(.*)")
OUTER = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "final_norm.bias": "model.norm.bias",
    "head.weight": "lm_head.weight",
}
PARTS = {
    (0, "norm"): "input_layernorm",
    (0, "mixer"): "self_attn",
    (1, "norm"): "post_attention_layernorm",
    (1, "mixer"): "mlp",
}
NO_BIAS = {"attention_bias": False, "mlp_bias": False}
UNSCALED = {"rope_parameters": {"rope_type": "default"}}
ROTATIONS = r".*\.rotary_emb\.inv_freq"  # Of old files: what follows from the RoPE base.


def _name(name: str) -> str:
    """Layers 2i and 2i + 1 become the two halves of block i."""
    found = LAYER.fullmatch(name)
    if not found:
        return OUTER[name]
    block, half = divmod(int(found[1]), 2)
    return f"model.layers.{block}.{PARTS[half, found[2]]}.{found[3]}"


def _against(model: ModelConfig, norm: str, *activations: str) -> list[str]:
    """Objections that the three share."""
    found = norm_objection(model, norm) + activation_objection(model, *activations)
    if model.layers != "*-" * (len(model.layers) // 2):
        found.append("pattern: `*-` repeated only")
    if "*" in model.layers and model.attention.rope is None:
        found.append("attention.rope: needed")
    return found


def _against_whole_heads(model: ModelConfig) -> list[str]:
    if model.attention.heads * model.attention.head_size == model.hidden_size:
        return []
    return ["attention: heads x head_size must equal hidden_size"]


def _shared(model: ModelConfig) -> dict[str, Any]:
    attention = model.attention
    rope = attention.rope
    return {
        "num_hidden_layers": len(model.layers) // 2,
        "intermediate_size": model.mlp.size,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_size,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": rope.base if rope else None,
            "partial_rotary_factor": rope.fraction if rope else None,
        },
    }


def _read(settings: Settings, *, norm: str, eps: str, activation: str, fraction: float | None = None) -> dict[str, Any]:
    """The inverse of what the three share. `fraction` is the rotated share where the class has no setting for it."""
    rope, heads = settings["rope_parameters"], settings["num_attention_heads"]
    return {
        "pattern": "*-" * settings["num_hidden_layers"],
        "norm": norm,
        "norm_eps": settings[eps],
        "attention": {
            "heads": heads,
            "kv_heads": settings.get("num_key_value_heads") or heads,
            "head_size": settings.get("head_dim") or settings["hidden_size"] // heads,
            "rope": {"base": rope["rope_theta"], "fraction": fraction or rope.get("partial_rotary_factor", 1.0)},
        },
        "mlp": {"size": settings["intermediate_size"], "activation": activation},
    }


def _against_nemotron(model: ModelConfig) -> list[str]:
    return _against(model, "layernorm", "relu2", "gelu")


def _nemotron(model: ModelConfig) -> dict[str, Any]:
    return _shared(model) | {"hidden_act": model.mlp.activation, "norm_eps": model.norm_eps}


def _read_nemotron(settings: Settings) -> dict[str, Any]:
    return _read(settings, norm="layernorm", eps="norm_eps", activation=settings["hidden_act"])


def _against_llama(model: ModelConfig) -> list[str]:
    found = _against(model, "rmsnorm", "swiglu")
    if model.attention.rope is not None and model.attention.rope.fraction != 1:
        found.append(f"attention.rope.fraction: 1 only, not {model.attention.rope.fraction:g}")
    if model.hidden_size % model.attention.heads:
        found.append("attention.heads: must divide hidden_size")
    return found


def _llama(model: ModelConfig) -> dict[str, Any]:
    return _shared(model) | {"rms_norm_eps": model.norm_eps}


def _read_llama(settings: Settings) -> dict[str, Any]:
    return _read(settings, norm="rmsnorm", eps="rms_norm_eps", activation="swiglu", fraction=1.0)


def _against_stablelm(model: ModelConfig) -> list[str]:
    return _against(model, "layernorm", "swiglu") + _against_whole_heads(model)


def _stablelm(model: ModelConfig) -> dict[str, Any]:
    return _shared(model) | {"layer_norm_eps": model.norm_eps}


def _read_stablelm(settings: Settings) -> dict[str, Any]:
    return _read(settings, norm="layernorm", eps="layer_norm_eps", activation="swiglu")


# NemotronLayerNorm1P adds one to the stored weight, as we do: its norms are ours unchanged.
NEMOTRON = Target(
    "NemotronForCausalLM",
    "nemotron",
    _against_nemotron,
    _nemotron,
    _read_nemotron,
    _name,
    constants=NO_BIAS,
    assumed=UNSCALED,
    ignored=ROTATIONS,
)
LLAMA = Target(
    "LlamaForCausalLM",
    "llama",
    _against_llama,
    _llama,
    _read_llama,
    _name,
    constants={"hidden_act": "silu", **NO_BIAS},
    assumed=UNSCALED,
    ignored=ROTATIONS,
)
STABLELM = Target(
    "StableLmForCausalLM",
    "stablelm",
    _against_stablelm,
    _stablelm,
    _read_stablelm,
    _name,
    constants={"hidden_act": "silu", "use_qkv_bias": False, "qk_layernorm": False, "use_parallel_residual": False},
    plain_norms=True,
    assumed=UNSCALED,
    ignored=ROTATIONS,
)
