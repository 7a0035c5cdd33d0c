"""Small transformers models of the six classes, made by transformers, with random settings and random weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers

VOCABULARY = 97
CONTEXT_TOKENS = 64


def _mamba(draw: random.Random) -> Any:
    return transformers.MambaConfig(
        hidden_size=8 * draw.randint(1, 5),
        state_size=draw.randint(1, 9),
        num_hidden_layers=draw.randint(1, 3),
        expand=draw.choice([1, 2, 3]),
        conv_kernel=draw.randint(2, 4),
        time_step_rank=draw.choice(["auto", 1, 3]),
        layer_norm_epsilon=draw.choice([1e-5, 1e-6]),
        tie_word_embeddings=draw.choice([True, False]),
    )


def _mamba2(draw: random.Random) -> Any:
    groups, head = draw.choice([1, 2, 4]), draw.choice([4, 8])
    heads = 2 * groups * draw.choice([1, 2])
    return transformers.Mamba2Config(
        hidden_size=heads * head // 2,
        num_heads=heads,
        head_dim=head,
        n_groups=groups,
        state_size=draw.randint(1, 9),
        num_hidden_layers=draw.randint(1, 3),
        conv_kernel=draw.randint(2, 4),
        chunk_size=draw.choice([8, 16, 32]),
        tie_word_embeddings=draw.choice([True, False]),
    )


def _nemotron_h(draw: random.Random) -> Any:
    groups, head = draw.choice([1, 2, 4]), draw.choice([4, 8])
    heads = 2 * groups * draw.choice([1, 2])
    kinds = ["full_attention", *draw.choices(["linear_attention", "mlp", "full_attention"], k=draw.randint(1, 4))]
    draw.shuffle(kinds)
    kv_heads = draw.choice([1, 2])
    return transformers.NemotronHConfig(
        hidden_size=heads * head // 2,
        layers_block_type=kinds,
        mamba_num_heads=heads,
        mamba_head_dim=head,
        n_groups=groups,
        ssm_state_size=draw.randint(1, 9),
        conv_kernel=draw.randint(2, 4),
        chunk_size=draw.choice([8, 16, 32]),
        num_attention_heads=kv_heads * draw.choice([1, 2]),
        num_key_value_heads=kv_heads,
        head_dim=draw.choice([4, 10]),
        intermediate_size=draw.randint(5, 40),
        mlp_hidden_act=draw.choice(["relu2", "gelu"]),
        time_step_min=1e-30,  # Larger ones are clamps that we do not have; see the test of the note.
    )


def _transformer(draw: random.Random, fractions: list[float], **own: Any) -> dict[str, Any]:
    kv_heads, head = draw.choice([1, 2]), draw.choice([8, 16])
    heads = kv_heads * draw.choice([1, 2])
    rope = {
        "rope_type": "default",
        "rope_theta": draw.choice([1e4, 4e4]),
        "partial_rotary_factor": draw.choice(fractions),
    }
    return {
        "hidden_size": heads * head,
        "num_hidden_layers": draw.randint(1, 3),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": draw.randint(5, 40),
        "rope_parameters": rope,
        "tie_word_embeddings": draw.choice([True, False]),
        **own,
    }


def _nemotron(draw: random.Random) -> Any:
    sizes = _transformer(
        draw, [0.5, 1.0, 0.25], hidden_act=draw.choice(["relu2", "gelu"]), head_dim=draw.choice([8, 16])
    )
    return transformers.NemotronConfig(**sizes)


def _llama(draw: random.Random) -> Any:
    return transformers.LlamaConfig(**_transformer(draw, [1.0], head_dim=draw.choice([8, 12, None])))


def _stablelm(draw: random.Random) -> Any:
    return transformers.StableLmConfig(**_transformer(draw, [0.5, 0.25], layer_norm_eps=draw.choice([1e-5, 1e-6])))


KINDS = {
    "mamba": _mamba,
    "mamba2": _mamba2,
    "nemotron_h": _nemotron_h,
    "nemotron": _nemotron,
    "llama": _llama,
    "stablelm": _stablelm,
}


def random_model(kind: str, seed: int, **settings: Any) -> Any:
    """A model of the class whose every parameter is random, norms and biases too; `settings` replace drawn ones."""
    config = KINDS[kind](random.Random(f"{kind} {seed}"))
    for key, value in ({"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT_TOKENS} | settings).items():
        setattr(config, key, value)
    torch.manual_seed(seed)
    model: Any = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.5 if "embed" in name or "lm_head" in name else 0.15
            parameter += spread * torch.randn(parameter.shape)
    return model


def save(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder
