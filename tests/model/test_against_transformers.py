"""Our model against transformers' six classes at random configurations: logits, gradients of inputs and weights.

`pytest -rP` shows the largest errors of each class, ‖ours − theirs‖ / ‖theirs‖ in float32.
"""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from sidewinder.config.model import Attention, Mamba1, Mamba2, Mlp, ModelConfig, Rope
from sidewinder.model import LanguageModel

VOCABULARY = 97
TRIALS = 24
BOUNDS = {"logits": 5e-6, "input gradients": 1e-5}


def _mamba(draw: random.Random) -> tuple[ModelConfig, Any]:
    layers, hidden, state, width = draw.randint(1, 3), 8 * draw.randint(1, 5), draw.randint(1, 9), draw.randint(2, 5)
    rank, expand = draw.choice([None, 1, 3]), draw.randint(1, 3)
    sizes = Mamba1(state_size=state, expand=expand, conv_width=width, dt_rank=rank)
    ours = ModelConfig(pattern="m" * layers, hidden_size=hidden, mamba1=sizes)
    theirs = transformers.MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        state_size=state,
        expand=expand,
        num_hidden_layers=layers,
        conv_kernel=width,
        time_step_rank=rank or "auto",
        tie_word_embeddings=False,
    )
    return ours, transformers.MambaForCausalLM(theirs)


def _mamba2_sizes(draw: random.Random) -> tuple[int, Mamba2, dict[str, Any]]:
    """Hidden size, our sizes, and those that transformers' two classes call alike."""
    groups, per_group, head, expand = draw.choice([1, 2, 4]), draw.choice([1, 2, 3]), 4 * draw.randint(1, 3), 2
    heads = groups * per_group
    if heads * head % 3 == 0:
        expand = draw.choice([2, 3])
    state, width, chunk = draw.randint(1, 9), draw.randint(2, 5), draw.choice([3, 8, 16, 32])
    sizes = Mamba2(state_size=state, head_size=head, groups=groups, conv_width=width, chunk=chunk, expand=expand)
    shared = {"n_groups": groups, "conv_kernel": width, "chunk_size": chunk, "expand": expand}
    return heads * head // expand, sizes, shared


def _mamba2(draw: random.Random) -> tuple[ModelConfig, Any]:
    hidden, sizes, shared = _mamba2_sizes(draw)
    layers = draw.randint(1, 3)
    theirs = transformers.Mamba2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_heads=sizes.expand * hidden // sizes.head_size,
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
    kv_heads, ratio, head = draw.choice([1, 2, 3]), draw.choice([1, 2, 4]), draw.choice([3, 4, 8])
    activation = draw.choice(["gelu", "relu2"])
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
        mamba_num_heads=sizes.expand * hidden // sizes.head_size,
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


def _transformer(draw: random.Random, kind: str) -> tuple[ModelConfig, Any]:
    """A Transformer as Nemotron (squared ReLU), Llama (SwiGLU) or StableLM (SwiGLU with LayerNorm)."""
    blocks, kv_heads, head, size = draw.randint(1, 2), draw.randint(1, 3), 4 * draw.randint(1, 4), draw.randint(8, 40)
    heads, base = kv_heads * draw.choice([1, 2, 4]), draw.choice([10_000.0, 500.0])
    hidden = heads * (head if kind == "stablelm" else draw.choice([head, 4, 8]))
    fraction = 1.0 if kind == "llama" else draw.choice([0.5, 1.0])
    rope = {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": fraction}
    shared = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": size,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "max_position_embeddings": 256,
        "rope_parameters": rope,
        "tie_word_embeddings": False,
    }
    if kind == "nemotron":
        theirs: Any = transformers.NemotronForCausalLM(transformers.NemotronConfig(**shared))
    elif kind == "llama":
        theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shared, rms_norm_eps=1e-5))
    else:
        theirs = transformers.StableLmForCausalLM(transformers.StableLmConfig(**shared, layer_norm_eps=1e-5))
    ours = ModelConfig(
        pattern="*-" * blocks,
        hidden_size=hidden,
        norm="rmsnorm" if kind == "llama" else "layernorm",
        attention=Attention(heads=heads, kv_heads=kv_heads, head_size=head, rope=Rope(base=base, fraction=fraction)),
        mlp=Mlp(size=size, activation="relu2" if kind == "nemotron" else "swiglu"),
    )
    return ours, theirs


FAMILIES = {
    "mamba": _mamba,
    "mamba2": _mamba2,
    "hybrid": _hybrid,
    "transformer as nemotron": lambda draw: _transformer(draw, "nemotron"),
    "transformer as llama": lambda draw: _transformer(draw, "llama"),
    "transformer as stablelm": lambda draw: _transformer(draw, "stablelm"),
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


@torch.no_grad()
def _share_weights(model: LanguageModel, theirs: Any) -> None:
    """Gives theirs the weights of ours; StableLM's norms hold the scale itself, ours the scale minus one."""
    weights = dict(model.named_parameters())
    assert {_our_name(name) for name, _ in theirs.named_parameters()} == set(weights)
    for name, parameter in theirs.named_parameters():
        is_scale = re.search(r"norm\.weight$", _our_name(name)) is not None
        shift = is_scale and isinstance(theirs, transformers.StableLmForCausalLM)
        parameter.copy_(weights[_our_name(name)] + float(shift))


def _our_input_gradient(model: LanguageModel, tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
    """Gradient of the loss with respect to the embedded tokens (B, L, D); the weights' gradients stay with them."""
    embedded_BLD = model.embedding(tokens_BL)
    embedded_BLD.retain_grad()
    with model.embedding.register_forward_hook(lambda module, inputs, output: embedded_BLD):
        model.loss(tokens_BL, targets_BL).backward()
    return embedded_BLD.grad


def _their_results(theirs: Any, tokens_BL: Tensor, targets_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the loss with respect to `inputs_embeds`."""
    embedded_BLD = theirs.get_input_embeddings()(tokens_BL)
    embedded_BLD.retain_grad()
    logits_BLV = theirs(inputs_embeds=embedded_BLD, use_cache=False).logits
    F.cross_entropy(logits_BLV.flatten(0, 1), targets_BL.flatten()).backward()
    return logits_BLV.detach(), embedded_BLD.grad


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _check_weight_gradients(model: LanguageModel, theirs: Any) -> None:
    """Each to itself; one whose parts nearly cancel, to the largest."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    largest = max(float(gradient.norm()) for gradient in gradients.values())
    for name, parameter in theirs.named_parameters():
        difference = float((gradients[_our_name(name)] - parameter.grad).norm())
        assert difference < 1e-4 * float(parameter.grad.norm()) + 1e-6 * largest, name


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients(family, make_model):
    worst = dict.fromkeys(BOUNDS, 0.0)
    for trial in range(TRIALS):
        draw = random.Random(f"{family} {trial}")
        torch.manual_seed(trial)
        config, theirs = FAMILIES[family](draw)
        model, theirs = make_model(config), theirs.float().eval()
        _share_weights(model, theirs)
        odd = 2 * draw.randint(0, 35) + 1
        batch, length = draw.randint(1, 3), draw.choice([odd, odd, odd, odd + 1])
        tokens_BL, targets_BL = torch.randint(0, VOCABULARY, (2, batch, length)).unbind(0)

        expected_BLV, expected_BLD = _their_results(theirs, tokens_BL, targets_BL)
        with torch.no_grad():
            logits_BLV = model(tokens_BL)
        found = {"logits": _relative(logits_BLV, expected_BLV)}
        found["input gradients"] = _relative(_our_input_gradient(model, tokens_BL, targets_BL), expected_BLD)
        for quantity, error in found.items():
            assert error < BOUNDS[quantity], (trial, quantity, config)
            worst[quantity] = max(worst[quantity], error)
        _check_weight_gradients(model, theirs)
    print(f"{family}: {TRIALS} configurations, {', '.join(f'{name} {error:.1e}' for name, error in worst.items())}")
