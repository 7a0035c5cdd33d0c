"""Writes checkpoints as Megatron-LM does, rank by rank, from small models of ours.

Each rank's rows are listed from what they mean (this head's z, that group's B), not by cutting up whole tensors.
"""

from __future__ import annotations

import argparse
import enum
import io
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidewinder.config.model import ModelConfig
from sidewinder.model import LanguageModel

Tensors = dict[str, Tensor]


@contextmanager
def megatron_classes() -> Iterator[type[enum.Enum]]:
    """A module `megatron.core.enums` that exists while a file is written, and not when it is read."""
    names = ("megatron", "megatron.core", "megatron.core.enums")
    for name in names:
        sys.modules[name] = ModuleType(name)
    kinds = enum.Enum("ModelType", {"encoder_or_decoder": 1}, module=names[-1], qualname="ModelType")
    sys.modules[names[-1]].ModelType = kinds  # type: ignore[attr-defined]
    try:
        yield kinds
    finally:
        for name in names:
            del sys.modules[name]


def arguments_of(model: LanguageModel, *, tensor: int, pipeline: int, later: bool) -> dict[str, Any]:
    """What Megatron's parser leaves for such a model; `later` adds what came in 2025."""
    config = model.config
    blocks = config.layers == "*-" * (len(config.layers) // 2)
    rope = config.attention.rope
    found: dict[str, Any] = {
        "num_layers": len(config.layers) // (2 if blocks else 1),
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.attention.heads,
        "kv_channels": config.attention.head_size,
        "group_query_attention": config.attention.kv_heads != config.attention.heads,
        "num_query_groups": config.attention.kv_heads if config.attention.kv_heads != config.attention.heads else 1,
        "ffn_hidden_size": config.mlp.size,
        "swiglu": config.mlp.activation == "swiglu",
        "squared_relu": config.mlp.activation == "relu2",
        "normalization": {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}[config.norm],
        "norm_epsilon": config.norm_eps,
        "apply_layernorm_1p": config.norm == "layernorm",
        "add_bias_linear": False,
        "position_embedding_type": "rope" if rope else "none",
        "rotary_percent": rope.fraction if rope else 1.0,
        "rotary_interleaved": False,
        "rotary_seq_len_interpolation_factor": None,
        "untie_embeddings_and_output_weights": True,
        "seq_length": 256,
        "max_position_embeddings": 512,
        "padded_vocab_size": model.vocab_size,
        "make_vocab_size_divisible_by": 16,
        "tensor_model_parallel_size": tensor,
        "pipeline_model_parallel_size": pipeline,
        "init_method_std": 0.02,
        "hybrid_attention_ratio": 0.0,
        "hybrid_mlp_ratio": 0.0,
        "hybrid_override_pattern": None if blocks else config.layers,
        "params_dtype": torch.bfloat16,
        "consumed_train_samples": 1024,
        "data_path": ["1.0", "/data/text"],
        "spec": ["megatron.core.models.mamba.mamba_layer_specs", "mamba_stack_spec"],
        "rank": 0,
    }
    if later:
        found |= {
            "mamba_state_dim": config.mamba2.state_size,
            "mamba_head_dim": config.mamba2.head_size,
            "mamba_num_groups": config.mamba2.groups,
        }
        found |= {"rotary_base": int(rope.base)} if rope else {}
    return found


def write_model(
    model: LanguageModel,
    folder: Path,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    fused: bool = False,
    dtype: torch.dtype = torch.float32,
    **changed: Any,
) -> Path:
    """Writes a whole checkpoint. `fused` norms lie in the projection behind them, as Transformer Engine has them.

    `changed` arguments replace those of the model; `...` removes one.
    """
    blocks = "M" not in model.config.layers
    arguments = arguments_of(model, tensor=tensor, pipeline=pipeline, later=True) | changed
    arguments = {name: value for name, value in arguments.items() if value is not ...}
    states = [
        [
            {
                name: value.to(dtype).clone()
                for name, value in rank_state(model, at, tensor, stage, pipeline, fused).items()
            }
            for at in range(tensor)
        ]
        for stage in range(pipeline)
    ]
    return write_files(states, arguments, folder, extra_states=fused or not blocks)


def write_files(
    states: Sequence[Sequence[Tensors]],
    arguments: dict[str, Any],
    folder: Path,
    *,
    iteration: int | None = None,
    extra_states: bool = False,
    top: dict[str, Any] | None = None,
) -> Path:
    """Writes `states[pipeline][tensor]` as files, in `release` or in the folder of an iteration."""
    name = "release" if iteration is None else f"iter_{iteration:07d}"
    for stage, ranks in enumerate(states):
        for at, state in enumerate(ranks):
            rank = folder / name / (f"mp_rank_{at:02d}" + (f"_{stage:03d}" if len(states) > 1 else ""))
            rank.mkdir(parents=True)
            with megatron_classes() as kinds:
                namespace = argparse.Namespace(**arguments, model_type=kinds.encoder_or_decoder)
                content = {
                    "args": namespace,
                    "checkpoint_version": 3.0,
                    "iteration": iteration or 0,
                    "model": _with_notes(state) if extra_states else OrderedDict(state),
                    "opt_param_scheduler": {"max_lr": 3e-4, "num_steps": 7},
                    "rng_state": [
                        {"random": random.getstate(), "np": np.random.get_state(), "cpu": torch.get_rng_state()}
                    ],
                    "num_floating_point_operations_so_far": 2**70,
                }
                torch.save(content | (top or {}), rank / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text(f"{iteration or 'release'}\n")
    return folder


def _with_notes(state: Tensors) -> OrderedDict[str, Any]:
    """Adds what Transformer Engine saves beside each weight, and torch's version notes."""
    noted: OrderedDict[str, Any] = OrderedDict()
    for name, value in state.items():
        noted[name] = value
        if name.endswith((".weight",)) and ".linear_" in name:
            notes = io.BytesIO()
            torch.save(None, notes)
            noted[name.removesuffix("weight") + "_extra_state"] = notes
    noted["decoder.layers.0.other._extra_state"] = torch.zeros(3, dtype=torch.uint8)
    noted["decoder.layers.1.other._extra_state"] = None
    noted._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return noted


def rank_state(model: LanguageModel, at: int, ranks: int, stage: int, stages: int, fused: bool) -> Tensors:
    """The tensors of one tensor-parallel rank of one pipeline stage, under Megatron's names."""
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    config = model.config
    blocks = "M" not in config.layers
    step = 2 if blocks else 1
    layers = [range(start, start + step) for start in range(0, len(config.layers), step)]
    each = len(layers) // stages
    mine = layers[stage * each : (stage + 1) * each if stage < stages - 1 else len(layers)]
    rows = torch.arange(model.vocab_size).chunk(ranks)[at]
    state: Tensors = {}
    if stage == 0:
        state["embedding.word_embeddings.weight"] = weights["embedding.weight"][rows]
    for index, ours in enumerate(mine):
        for place in ours:
            letter = config.layers[place]
            own = {
                k.removeprefix(f"layers.{place}."): v for k, v in weights.items() if k.startswith(f"layers.{place}.")
            }
            made = {"M": _mamba, "*": _attention, "-": _mlp}[letter](own, config, at, ranks)
            norm = _norm_name(letter, blocks, fused)
            made |= {norm + key.removeprefix("norm."): v for key, v in own.items() if key.startswith("norm.")}
            state |= {f"decoder.layers.{index}.{name}": value for name, value in made.items()}
    if stage == stages - 1:
        final = "decoder.final_layernorm." if blocks else "decoder.final_norm."
        state |= {final + k.removeprefix("final_norm."): v for k, v in weights.items() if k.startswith("final_norm.")}
        state["output_layer.weight"] = weights["head.weight"][rows]
    return state


def _norm_name(letter: str, blocks: bool, fused: bool) -> str:
    """Hybrids always had fused norms before attention and MLP; before Mamba only since July 2024."""
    if letter == "M":
        return "mixer.in_proj.layer_norm_" if fused else "norm."
    if blocks and not fused:
        return "input_layernorm." if letter == "*" else "pre_mlp_layernorm."
    return "self_attention.linear_qkv.layer_norm_" if letter == "*" else "mlp.linear_fc1.layer_norm_"


def _mamba(own: Tensors, config: ModelConfig, at: int, ranks: int) -> Tensors:
    sizes = config.mamba2
    inner = config.hidden_size * sizes.expand
    both, heads = sizes.groups * sizes.state_size, inner // sizes.head_size
    my_heads = [head for head in range(heads) if head * ranks // heads == at]
    my_groups = [group for group in range(sizes.groups) if group * ranks // sizes.groups == at]
    channels = [head * sizes.head_size + place for head in my_heads for place in range(sizes.head_size)]
    states = [group * sizes.state_size + place for group in my_groups for place in range(sizes.state_size)]

    def rows(start: int, which: list[int]) -> list[int]:
        return [start + row for row in which]

    z_x = [*rows(0, channels), *rows(inner, channels)]
    b_c = [*rows(2 * inner, states), *rows(2 * inner + both, states)]
    projected = [*z_x, *b_c, *rows(2 * inner + 2 * both, my_heads)]
    convolved = [*rows(0, channels), *rows(inner, states), *rows(inner + both, states)]
    return {
        "mixer.in_proj.weight": own["mixer.in_proj.weight"][projected],
        "mixer.conv1d.weight": own["mixer.conv1d.weight"][convolved],
        "mixer.conv1d.bias": own["mixer.conv1d.bias"][convolved],
        "mixer.dt_bias": own["mixer.dt_bias"][my_heads],
        "mixer.A_log": own["mixer.A_log"][my_heads],
        "mixer.D": own["mixer.D"][my_heads],
        "mixer.norm.weight": own["mixer.norm.weight"][channels],
        "mixer.out_proj.weight": own["mixer.out_proj.weight"][:, channels],
    }


def _attention(own: Tensors, config: ModelConfig, at: int, ranks: int) -> Tensors:
    sizes = config.attention
    size, queries = sizes.head_size, sizes.heads // sizes.kv_heads
    rows, columns = [], []
    for group in range(sizes.kv_heads):
        if group * ranks // sizes.kv_heads != at:
            continue
        for head in range(group * queries, (group + 1) * queries):
            rows.append(own["mixer.q_proj.weight"][head * size : (head + 1) * size])
            columns.append(own["mixer.o_proj.weight"][:, head * size : (head + 1) * size])
        rows.append(own["mixer.k_proj.weight"][group * size : (group + 1) * size])
        rows.append(own["mixer.v_proj.weight"][group * size : (group + 1) * size])
    return {
        "self_attention.linear_qkv.weight": torch.cat(rows),
        "self_attention.linear_proj.weight": torch.cat(columns, dim=1),
    }


def _mlp(own: Tensors, config: ModelConfig, at: int, ranks: int) -> Tensors:
    each = config.mlp.size // ranks
    mine = slice(at * each, (at + 1) * each)
    first = [own[f"mixer.{name}.weight"][mine] for name in ("gate_proj", "up_proj") if f"mixer.{name}.weight" in own]
    return {"mlp.linear_fc1.weight": torch.cat(first), "mlp.linear_fc2.weight": own["mixer.down_proj.weight"][:, mine]}
