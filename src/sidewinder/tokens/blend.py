"""Writes blend.json: the tokenized shards of every source with their weights, for training and evaluation to read.

    {"vocab_size": …, "eos": 2, "dtype": "uint16", "tokenizer": {"path": …, "sha256": …},
     "sources": {name: {"weight": …, "shards": [{"prefix", "tokens", "documents", "text_bytes", "sha256_bin"}, …],
                        "heldout": [the same], "lengths": [[documents], [tokens]] by powers of two (`tokens.lengths`),
                        "in_order": true for a curriculum}}}

Paths are relative to its folder; `manifest.read_blend` resolves them. Run as `sidewinder blend`. The same job makes the
indexes that the study's stages will ask for (`tokens.index`), and tells how often each stage goes through each source.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sidewinder.graph import Graph
from sidewinder.record import RECORD, Artifact, Job, check, outputs_of, read_record, write_atomically
from sidewinder.tokenizer import load
from sidewinder.tokens.encode import TOKENS
from sidewinder.tokens.indexed import token_dtype
from sidewinder.tokens.lengths import BINS, chunks, histogram, named
from sidewinder.tokens.loader import BlendLoader
from sidewinder.tokens.store import Shard, open_shard

BLEND = "blend.json"


def write_blend(graph: Graph, folder: Path) -> None:
    """Makes blend.json from the records of its shards. Raises CorruptArtifact where a token file lost its size."""
    weights = graph.weights_at(folder)
    model = next(entry for entry in outputs_of(graph.tokenizer / RECORD) if entry.role == "tokenizer")
    records = {
        (source, shard): outputs_of(graph.tokens(source, shard) / RECORD)
        for source in weights
        for shard in graph.shards(source)
    }
    inputs = [model, *(entry for outputs in records.values() for entry in outputs)]
    with Job(folder, "tokens", folder.name.rpartition("-")[0], {"weights": weights}, inputs) as job:
        if job.finished:
            return
        for entry in inputs:
            check(entry)
        blend = _blend(graph, folder, model, records)
        write_atomically(folder / BLEND, json.dumps(blend, indent=1))
        job.output("blend", folder / BLEND)
        job.facts |= _facts(graph, folder, blend)


def _blend(
    graph: Graph, folder: Path, model: Artifact, records: dict[tuple[str, str], list[Artifact]]
) -> dict[str, Any]:
    tokenizer = load(graph.tokenizer)
    sources: dict[str, Any] = {}
    for source, weight in graph.weights_at(folder).items():
        sources[source] = {"weight": weight, "shards": [], "heldout": []}
        if graph.study.in_order(source):
            sources[source]["in_order"] = True
        for shard in graph.shards(source):
            part = "heldout" if shard.startswith("heldout") else "shards"
            tokens = graph.tokens(source, shard)
            sources[source][part].append(_shard(folder, tokens, records[source, shard]))
        sources[source]["lengths"] = _lengths(folder, sources[source]["shards"]).tolist()
    return {
        "vocab_size": tokenizer.get_piece_size(),
        "eos": tokenizer.eos_id(),
        "dtype": str(token_dtype(tokenizer.get_piece_size())),
        "tokenizer": {"path": os.path.relpath(model.path, folder), "sha256": model.sha256},
        "sources": sources,
    }


def _shard(folder: Path, tokens: Path, outputs: list[Artifact]) -> dict[str, Any]:
    facts = read_record(tokens / RECORD)["facts"]
    return {
        "prefix": os.path.relpath(tokens / TOKENS, folder),
        **{fact: facts[fact] for fact in ("tokens", "documents", "text_bytes")},
        "sha256_bin": next(entry.sha256 for entry in outputs if entry.role == "bin"),
    }


def _lengths(folder: Path, shards: list[dict[str, Any]]) -> np.ndarray:
    """How long the documents of a source are: (2, BINS), as `tokens.lengths` counts them."""
    lengths = np.zeros((2, BINS), dtype=np.int64)
    for entry in shards:
        shard = Shard(folder / entry["prefix"], entry["tokens"], entry["documents"])
        for sizes in chunks(open_shard(shard).sizes):
            lengths += histogram(sizes)
    return lengths


def _facts(graph: Graph, folder: Path, blend: dict[str, Any]) -> dict[str, Any]:
    """Tokens and lengths of every source, and what each stage will read; warns of what a user should know.

    Raises DataError where a stage's text runs out.
    """
    stages: dict[str, dict[str, Any]] = {}
    loaders: dict[str, BlendLoader] = {}
    for stage in graph.stages:
        if stage.blend != folder:
            continue
        training = stage.training
        plan = f"{training.context_tokens} {training.sequences} {training.packing} {training.documents}"
        if plan not in loaders:
            loaders[plan] = BlendLoader(
                folder / BLEND,
                training.context_tokens,
                stage.seed,
                training.sequences,
                training.packing,
                training.documents,
            )
            loaders[plan].check_repeats(graph.study.repeat_at_most, stage.title)
            for warning in loaders[plan].warnings():
                print(f"blend: {stage.kind}-{training.context_tokens}: {warning}", file=sys.stderr)
        stages[f"{stage.model_name} {stage.kind}-{training.context_tokens}"] = loaders[plan].facts()
    return {
        "tokens": {name: sum(shard["tokens"] for shard in entry["shards"]) for name, entry in blend["sources"].items()},
        "lengths": {name: named(np.array(entry["lengths"][1])) for name, entry in blend["sources"].items()},
        "epochs": {name: facts["epochs"] for name, facts in stages.items()},
        "stages": stages,
    }
