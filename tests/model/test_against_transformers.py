"""Our model against transformers' five classes at random small configurations: logits and every gradient."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from sidewinder.config.model import Attention, Mamba1, Mamba2, Mlp, ModelConfig, Rope

VOCABULARY = 97
TRIALS = 20


def _mamba(draw: random.Random) -> tuple[ModelConfig, Any]:
    layers, hidden, state, width = draw.randint(1, 3), 8 * draw.randint(1, 5), draw.randint(1, 9), draw.randint(2, 4)
    rank = draw.choice([None, 1, 3])
    ours = ModelConfig(
        pattern="m" * layers, hidden_size=hidden, mamba1=Mamba1(state_size=state, conv_width=width, dt_rank=rank)
    )
    theirs = transformers.MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        state_size=state,
        num_hidden_layers=layers,
        conv_kernel=width,
        time_step_rank=rank or "auto",
        tie_word_embeddings=False,
    )
    return ours, transformers.MambaForCausalLM(theirs)


def _mamba2_sizes(draw: random.Random) -> tuple[int, Mamba2, dict[str, Any]]:
    groups, per_group, head = draw.choice([1, 2, 4]), draw.choice([1, 2]), draw.choice([4, 8])
    heads = groups * per_group
    state, width, chunk = draw.randint(1, 9), draw.randint(2, 4), draw.choice([8, 16, 32])
    sizes = Mamba2(state_size=state, head_size=head, groups=groups, conv_width=width, chunk=chunk)
    return heads * head // 2, sizes, {"n_groups": groups, "conv_kernel": width, "chunk_size": chunk}


def _mamba2(draw: random.Random) -> tuple[ModelConfig, Any]:
    hidden, sizes, shared = _mamba2_sizes(draw)
    layers = draw.randint(1, 3)
    theirs = transformers.Mamba2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_heads=2 * hidden // sizes.head_size,
        head_dim=sizes.head_size,
        state_size=sizes.state_size,
        num_hidden_layers=layers,
        **shared,
    )
    ours = ModelConfig(pattern="M" * layers, hidden_size=hidden, mamba2=sizes)
    return ours, transformers.Mamba2ForCausalLM(theirs)


def _hybrid(draw: random.Random) -> tuple[ModelConfig, Any]:
    hidden, sizes, shared = _mamba2_sizes(draw)
    pattern = "".join(draw.choices("M-*", k=4)) + "M*"
    kv_heads, ratio, head, activation = draw.choice([1, 2]), draw.choice([1, 2]), 4, draw.choice(["gelu", "relu2"])
    names = {"M": "linear_attention", "-": "mlp", "*": "full_attention"}
    theirs = transformers.NemotronHConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        layers_block_type=[names[letter] for letter in pattern],
        num_attention_heads=kv_heads * ratio,
        num_key_value_heads=kv_heads,
        head_dim=head,
        intermediate_size=24,
        mlp_hidden_act=activation,
        mamba_num_heads=2 * hidden // sizes.head_size,
        mamba_head_dim=sizes.head_size,
        ssm_state_size=sizes.state_size,
        layer_norm_epsilon=1e-5,
        time_step_min=1e-9,  # their slow form clamps dt here
        **shared,
    )
    ours = ModelConfig(
        pattern=pattern,
        hidden_size=hidden,
        attention=Attention(heads=kv_heads * ratio, kv_heads=kv_heads, head_size=head),
        mlp=Mlp(size=24, activation=activation),
        mamba2=sizes,
    )
    return ours, transformers.NemotronHForCausalLM(theirs)


def _transformer(draw: random.Random, *, swiglu: bool) -> tuple[ModelConfig, Any]:
    blocks, kv_heads, ratio, head = draw.randint(1, 2), draw.choice([1, 2]), draw.choice([1, 2]), draw.choice([8, 16])
    hidden, base = kv_heads * ratio * head, draw.choice([10_000.0, 500.0])
    shared = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 24,
        "num_hidden_layers": blocks,
        "num_attention_heads": kv_heads * ratio,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 256,
    }
    rope = {"rope_type": "default", "rope_theta": base}
    if swiglu:
        theirs: Any = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**shared, rope_parameters=rope, rms_norm_eps=1e-5, tie_word_embeddings=False)
        )
    else:
        theirs = transformers.NemotronForCausalLM(
            transformers.NemotronConfig(**shared, rope_parameters={**rope, "partial_rotary_factor": 0.5})
        )
    ours = ModelConfig(
        pattern="*-" * blocks,
        hidden_size=hidden,
        norm="rmsnorm" if swiglu else "layernorm",
        attention=Attention(
            heads=kv_heads * ratio,
            kv_heads=kv_heads,
            head_size=head,
            rope=Rope(base=base, fraction=1.0 if swiglu else 0.5),
        ),
        mlp=Mlp(size=24, activation="swiglu" if swiglu else "relu2"),
    )
    return ours, theirs


FAMILIES = {
    "mamba": _mamba,
    "mamba2": _mamba2,
    "hybrid": _hybrid,
    "nemotron": lambda draw: _transformer(draw, swiglu=False),
    "llama": lambda draw: _transformer(draw, swiglu=True),
}


def _our_name(name: str) -> str:
    """Our name of one of their tensors."""
    name = re.sub(r"^(backbone|model)\.", "", name)
    name = name.replace("lm_head.", "head.").replace("norm_f.", "final_norm.").replace("embeddings.", "embedding.")
    name = name.replace("embed_tokens.", "embedding.")
    block = re.match(r"layers\.(\d+)\.(input_layernorm|self_attn|post_attention_layernorm|mlp)\.(.*)", name)
    if block:
        place, part, rest = int(block[1]), block[2], block[3]
        layer = 2 * place + (part in ("post_attention_layernorm", "mlp"))
        return f"layers.{layer}.{'norm' if 'layernorm' in part else 'mixer'}.{rest}"
    return re.sub(r"^norm\.", "final_norm.", name)


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-6))


@pytest.mark.parametrize("trial", range(TRIALS))
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_and_gradients(family, trial, make_model):
    draw = random.Random(f"{family} {trial}")
    torch.manual_seed(trial)
    config, theirs = FAMILIES[family](draw)
    theirs = theirs.float().eval()
    model = make_model(config)
    with torch.no_grad():
        weights = dict(model.named_parameters())
        for name, parameter in theirs.named_parameters():
            parameter.copy_(weights[_our_name(name)])
    assert {_our_name(name) for name, _ in theirs.named_parameters()} == set(weights)

    tokens_BL = torch.randint(0, VOCABULARY, (draw.randint(1, 3), draw.randint(2, 40)))
    logits_BLV = model(tokens_BL)
    assert _relative(logits_BLV.detach(), theirs(tokens_BL).logits.detach()) < 2e-5

    model.loss(tokens_BL[:, :-1], tokens_BL[:, 1:]).backward()
    F.cross_entropy(theirs(tokens_BL[:, :-1]).logits.flatten(0, 1), tokens_BL[:, 1:].flatten()).backward()
    largest = max(float(parameter.grad.norm()) for parameter in weights.values())
    for name, parameter in theirs.named_parameters():
        ours = weights[_our_name(name)].grad
        assert float((ours - parameter.grad).norm()) < 1e-4 * float(parameter.grad.norm()) + 1e-6 * largest, name
