"""Transformer classes of transformers: Nemotron, Llama and StableLM.

Each block of these holds an attention and an MLP, so the pattern must be `*-` repeated. RoPE pairs channel i with
channel i + half in all three, as we do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sidewinder.config.model import ModelConfig
from sidewinder.export.target import Target, Weights, activation_objection, norm_objection

if TYPE_CHECKING:
    from torch import Tensor

NORM = re.compile(r"(^|\.)(final_norm|norm)\.weight$")
LAYER = re.compile(r"layers\.(\d+)\.(norm|mixer)\.(.*)")


def _weights(weights: Mapping[str, Tensor]) -> Weights:
    """Layers 2i and 2i + 1 become the two halves of block i."""
    outer = {
        "embedding.weight": "model.embed_tokens.weight",
        "final_norm.weight": "model.norm.weight",
        "final_norm.bias": "model.norm.bias",
        "head.weight": "lm_head.weight",
    }
    parts = {
        (0, "norm"): "input_layernorm",
        (0, "mixer"): "self_attn",
        (1, "norm"): "post_attention_layernorm",
        (1, "mixer"): "mlp",
    }
    out: Weights = {}
    for name, tensor in weights.items():
        if found := LAYER.fullmatch(name):
            block, half = divmod(int(found[1]), 2)
            out[f"model.layers.{block}.{parts[half, found[2]]}.{found[3]}"] = tensor
        else:
            out[outer[name]] = tensor
    return out


def _plain_norms(weights: Mapping[str, Tensor]) -> Weights:
    """As `_weights`, with norms whose weight is the scale itself: ours is the scale minus one."""
    return _weights({name: tensor + 1 if NORM.search(name) else tensor for name, tensor in weights.items()})


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
    assert attention.rope is not None
    return {
        "num_hidden_layers": len(model.layers) // 2,
        "intermediate_size": model.mlp.size,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_size,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": attention.rope.base,
            "partial_rotary_factor": attention.rope.fraction,
        },
    }


def _against_nemotron(model: ModelConfig) -> list[str]:
    return _against(model, "layernorm", "relu2", "gelu")


def _nemotron(model: ModelConfig) -> dict[str, Any]:
    own = {"hidden_act": model.mlp.activation, "norm_eps": model.norm_eps, "attention_bias": False, "mlp_bias": False}
    return _shared(model) | own


def _against_llama(model: ModelConfig) -> list[str]:
    found = _against(model, "rmsnorm", "swiglu")
    if model.attention.rope is not None and model.attention.rope.fraction != 1:
        found.append(f"attention.rope.fraction: 1 only, not {model.attention.rope.fraction:g}")
    if model.hidden_size % model.attention.heads:
        found.append("attention.heads: must divide hidden_size")
    return found


def _llama(model: ModelConfig) -> dict[str, Any]:
    own = {"hidden_act": "silu", "rms_norm_eps": model.norm_eps, "attention_bias": False, "mlp_bias": False}
    return _shared(model) | own


def _against_stablelm(model: ModelConfig) -> list[str]:
    return _against(model, "layernorm", "swiglu") + _against_whole_heads(model)


def _stablelm(model: ModelConfig) -> dict[str, Any]:
    own = {
        "hidden_act": "silu",
        "layer_norm_eps": model.norm_eps,
        "use_qkv_bias": False,
        "qk_layernorm": False,
        "use_parallel_residual": False,
    }
    return _shared(model) | own


# NemotronLayerNorm1P adds one to the stored weight, as we do: its norms are ours unchanged.
NEMOTRON = Target("NemotronForCausalLM", "nemotron", _against_nemotron, _nemotron, _weights)
LLAMA = Target("LlamaForCausalLM", "llama", _against_llama, _llama, _weights)
STABLELM = Target("StableLmForCausalLM", "stablelm", _against_stablelm, _stablelm, _plain_norms)
