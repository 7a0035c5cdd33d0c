"""Writes blend.json: the tokenized shards of every source with their weights, for training and evaluation to read.

    {"vocab_size": …, "eos": 2, "dtype": "uint16", "tokenizer": {"path": …, "sha256": …},
     "sources": {name: {"weight": …, "shards": [{"prefix", "tokens", "documents", "text_bytes", "sha256_bin"}, …],
                        "heldout": [the same]}}}

Paths are relative to its folder; `manifest.read_blend` resolves them. Run as `sidewinder blend`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from sidewinder.graph import Graph
from sidewinder.record import RECORD, Artifact, Job, check, outputs_of, read_record, write_atomically
from sidewinder.tokenizer import MODEL, load
from sidewinder.tokens.encode import TOKENS
from sidewinder.tokens.indexed import token_dtype

BLEND = "blend.json"
MANY_EPOCHS = 4  # Beyond about four, repeated text is worth less than new text (arXiv 2305.16264).


def write_blend(graph: Graph) -> None:
    """Makes blend.json from the records of all shards. Raises CorruptArtifact where a token file lost its size."""
    (model,) = outputs_of(graph.tokenizer / RECORD)
    records = {
        (source, shard): outputs_of(graph.tokens(source, shard) / RECORD)
        for source in graph.source_configs
        for shard in graph.shards(source)
    }
    inputs = [model, *(entry for outputs in records.values() for entry in outputs)]
    with Job(graph.blend, "tokens", "blend", {"weights": graph.study.weights}, inputs) as job:
        if job.finished:
            return
        for entry in inputs:
            check(entry)
        blend = _blend(graph, model, records)
        write_atomically(graph.blend / BLEND, json.dumps(blend, indent=1))
        job.output("blend", graph.blend / BLEND)
        job.facts |= _facts(graph, blend)


def _blend(graph: Graph, model: Artifact, records: dict[tuple[str, str], list[Artifact]]) -> dict[str, Any]:
    tokenizer = load(graph.tokenizer / MODEL)
    sources: dict[str, Any] = {}
    for source, weight in graph.study.weights.items():
        sources[source] = {"weight": weight, "shards": [], "heldout": []}
        for shard in graph.shards(source):
            part = "heldout" if shard.startswith("heldout") else "shards"
            sources[source][part].append(_shard(graph, source, shard, records[source, shard]))
    return {
        "vocab_size": tokenizer.get_piece_size(),
        "eos": tokenizer.eos_id(),
        "dtype": str(token_dtype(tokenizer.get_piece_size())),
        "tokenizer": {"path": os.path.relpath(model.path, graph.blend), "sha256": model.sha256},
        "sources": sources,
    }


def _shard(graph: Graph, source: str, shard: str, outputs: list[Artifact]) -> dict[str, Any]:
    folder = graph.tokens(source, shard)
    facts = read_record(folder / RECORD)["facts"]
    return {
        "prefix": os.path.relpath(folder / TOKENS, graph.blend),
        **{fact: facts[fact] for fact in ("tokens", "documents", "text_bytes")},
        "sha256_bin": next(entry.sha256 for entry in outputs if entry.role == "bin"),
    }


def _facts(graph: Graph, blend: dict[str, Any]) -> dict[str, Any]:
    """Tokens of every source, and how often each stage goes through it; says so where that is often."""
    tokens = {name: sum(shard["tokens"] for shard in entry["shards"]) for name, entry in blend["sources"].items()}
    epochs: dict[str, dict[str, float]] = {}
    for stage in graph.stages:
        budget, name = stage.training.tokens, f"{stage.model_name} {stage.kind}"
        epochs[f"{name}-{stage.training.context_tokens}"] = {
            source: round(budget * weight / tokens[source], 4) for source, weight in graph.study.weights.items()
        }
    for source in tokens:
        most = max(by_source[source] for by_source in epochs.values())
        if most > MANY_EPOCHS:
            print(f"blend: training goes through {source} {most:.1f} times; give it more text", file=sys.stderr)
    return {"tokens": tokens, "epochs": epochs}
