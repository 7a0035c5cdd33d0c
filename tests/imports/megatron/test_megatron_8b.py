"""The paper's models at their own size: names and shapes of the released files against ours, without their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest

from sidewinder.config.model import ModelConfig
from sidewinder.imports.megatron.arguments import Arguments
from sidewinder.imports.megatron.job import check_shapes, plan
from sidewinder.imports.megatron.layout import lay_out
from sidewinder.imports.megatron.pickled import Inert, Storage, StoredTensor
from sidewinder.imports.megatron.sizes import describe
from sidewinder.imports.megatron.state import Rank, State, layer_kinds

HYBRID = "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"
MAMBA = """
norm.weight                                 4096
mixer.in_proj.weight                        18560 x 4096    rows, each of z, x, B, C, dt on its own
mixer.conv1d.weight                         10240 x 1 x 4   rows, each of x, B, C on its own
mixer.conv1d.bias                           10240           rows, each of x, B, C on its own
mixer.dt_bias                               128             rows
mixer.A_log                                 128             rows
mixer.D                                     128             rows
mixer.norm.weight                           8192            rows
mixer.out_proj.weight                       4096 x 8192     columns
"""
ATTENTION = """
self_attention.linear_qkv.layer_norm_weight 4096
self_attention.linear_qkv.weight            6144 x 4096     rows
self_attention.linear_proj.weight           4096 x 4096     columns
"""
MLP = """
mlp.linear_fc1.layer_norm_weight            4096
mlp.linear_fc1.weight                       16384 x 4096    rows
mlp.linear_fc2.weight                       4096 x 16384    columns
"""
OUTER = """
embedding.word_embeddings.weight            256000 x 4096   rows
output_layer.weight                         256000 x 4096   rows
decoder.final_norm.weight                   4096
"""
BLOCK = """
input_layernorm.weight                      4096
input_layernorm.bias                        4096
self_attention.linear_qkv.weight            12288 x 4096    rows
self_attention.linear_proj.weight           4096 x 4096     columns
pre_mlp_layernorm.weight                    4096
pre_mlp_layernorm.bias                      4096
mlp.linear_fc1.weight                       {first} x 4096  rows
mlp.linear_fc2.weight                       4096 x {second} columns
"""
FINAL_LAYERNORM = """
decoder.final_layernorm.weight              4096
decoder.final_layernorm.bias                4096
"""
SHARED = {"hidden_size": 4096, "num_attention_heads": 32, "kv_channels": 128, "seq_length": 4096}
SHARED |= {"padded_vocab_size": 256000, "untie_embeddings_and_output_weights": True, "norm_epsilon": 1e-5}
GPT = {"normalization": "LayerNorm", "apply_layernorm_1p": True, "position_embedding_type": "rope", "num_layers": 32}
GPT |= {"rotary_percent": 0.5, "group_query_attention": False, "num_query_groups": 1}
SSM = {"normalization": "RMSNorm", "position_embedding_type": "none", "num_layers": 56}


def rows(table: str, ranks: int, prefix: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and a rank's shapes from a table: rows split the first dimension, columns the second."""
    for line in table.strip().splitlines():
        match = re.fullmatch(r"(\S+)\s+(\d+(?: x \d+)*)\s*(rows|columns)?.*", line)
        assert match, line
        sizes = [int(size) for size in match[2].split(" x ")]
        if match[3]:
            sizes[match[3] == "columns"] //= ranks
        yield prefix + match[1], tuple(sizes)


def state_of(layers: list[str], outer: str, arguments: dict[str, Any], ranks: int) -> State:
    """A checkpoint that has tensors of these shapes, and no files."""
    shapes = dict(rows(outer, ranks))
    for index, table in enumerate(layers):
        shapes |= dict(rows(table, ranks, f"decoder.layers.{index}."))
    tensors = {
        name: StoredTensor(Storage("BFloat16Storage", name, prod(shape)), 0, shape, (1,) * len(shape))
        for name, shape in shapes.items()
    }
    told = Arguments(Inert("argparse.Namespace", (), SHARED | arguments), Path("checkpoint"))
    archive: Any = None
    return State(Path("checkpoint"), [[Rank(f"mp_rank_{at:02d}", archive, tensors, 1) for at in range(ranks)]], told)


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize(
    ("layers", "outer", "arguments", "wanted", "parameters"),
    [
        (
            [{"M": MAMBA, "*": ATTENTION, "-": MLP}[letter] for letter in HYBRID],
            OUTER,
            SSM | {"group_query_attention": True, "num_query_groups": 8, "ffn_hidden_size": 16384},
            {
                "allocation": {"layers": 56, "attention": 0.08, "mlp": 0.5},
                "attention": {"heads": 32, "kv_heads": 8, "head_size": 128},
                "mlp": {"size": 16384, "activation": "gelu"},
            },
            8_654_517_248,
        ),
        ([MAMBA] * 56, OUTER, SSM, {"pattern": "M" * 56}, 8_236_999_680),
        (
            [BLOCK.format(first=16384, second=16384)] * 32,
            OUTER.replace("decoder.final_norm.weight                   4096\n", FINAL_LAYERNORM.lstrip()),
            GPT | {"squared_relu": True, "ffn_hidden_size": 16384},
            {"mlp": {"size": 16384, "activation": "relu2"}},
            8_540_135_424,
        ),
        (
            [BLOCK.format(first=2 * 10880, second=10880)] * 32,
            OUTER.replace("decoder.final_norm.weight                   4096\n", FINAL_LAYERNORM.lstrip()),
            GPT | {"swiglu": True, "ffn_hidden_size": 10880},
            {"mlp": {"size": 10880, "activation": "swiglu"}},
            8_523_358_208,
        ),
    ],
    ids=["hybrid", "mamba2", "transformer", "swiglu"],
)
def test_released_shapes_are_our_8b_models(
    layers: list[str], outer: str, arguments: dict[str, Any], wanted: dict[str, Any], parameters: int, ranks: int
) -> None:
    state = state_of(layers, outer, arguments, ranks)
    stages = layer_kinds(state)
    model = describe(state, "".join(stages[0]))
    layout = lay_out(state, stages, model)
    check_shapes(state, layout)
    planned = plan(state, layout, model)
    assert sum(prod(one.shape) for one in planned.values()) == parameters
    if stages[0][0] == "*-":
        rope = {"base": 10_000, "fraction": 0.5}
        wanted = wanted | {"pattern": "*-" * 32, "norm": "layernorm"}
        wanted |= {"attention": {"heads": 32, "kv_heads": 32, "head_size": 128, "rope": rope}}
    ours = ModelConfig.model_validate(wanted)
    for key in ("layers", "hidden_size", "norm", "norm_eps", "attention", "mlp", "mamba2"):
        used = {"attention": "*", "mlp": "-", "mamba2": "M"}.get(key, ours.layers[0]) in ours.layers
        assert not used or getattr(model.config, key) == getattr(ours, key)
    assert (model.vocab_size, model.context_tokens, model.norm_shift) == (256_000, 4096, 0)


def test_names_of_july_2024() -> None:
    """The Mamba pre-norm under its later name is the same tensor."""
    later = MAMBA.replace("norm.weight ", "mixer.in_proj.layer_norm_weight ", 1)
    state = state_of([later] * 56, OUTER, SSM, 1)
    stages = layer_kinds(state)
    layout = lay_out(state, stages, describe(state, "M" * 56))
    check_shapes(state, layout)
    assert layout.sources["layers.7.norm.weight"].name == "decoder.layers.7.mixer.in_proj.layer_norm_weight"
