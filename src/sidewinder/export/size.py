"""What an export takes of a machine's memory, told without torch, which whoever only plans the job need not load."""

from __future__ import annotations

from sidewinder.config.model import ModelConfig
from sidewinder.graph import Graph

BASE_MEM_MB = 4_000
"""Libraries, held-out text, activations."""
COPIES = 3
"""Of the weights in float32: the checkpoint's, the exported model's, and what loading that takes beside."""


def export_mem_mb(graph: Graph, run: str, stage: str) -> int:
    """Of the job that exports the stage at these folder names, which Snakemake calls wildcards."""
    model = graph.stage_at(graph.results / "runs" / run / stage).model
    return BASE_MEM_MB + COPIES * 4 * weights(model, graph.study.tokenizer.vocab_size) // 10**6


def weights(config: ModelConfig, vocab_size: int) -> int:
    """Numbers in the matrices of a model: all parameters but for less than one in a hundred."""
    return 2 * vocab_size * config.hidden_size + sum(_layer_weights(letter, config) for letter in config.layers)


def _layer_weights(letter: str, config: ModelConfig) -> int:
    hidden = config.hidden_size
    if letter == "*":
        return hidden * config.attention.head_size * 2 * (config.attention.heads + config.attention.kv_heads)
    if letter == "-":
        return hidden * config.mlp.size * (3 if config.mlp.activation == "swiglu" else 2)
    if letter == "M":
        two = config.mamba2
        inner = hidden * two.expand
        return hidden * (3 * inner + 2 * two.groups * two.state_size + inner // two.head_size)
    one = config.mamba1
    inner, rank = hidden * one.expand, one.dt_rank or -(-hidden // 16)
    return 3 * hidden * inner + inner * (2 * rank + 3 * one.state_size)
