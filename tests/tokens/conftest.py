"""Made-up blends: documents whose every token says where it came from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tokenizer.conftest import study_values, write_odd

from sidewinder.config.load import parse_study
from sidewinder.corpus.build import build_source
from sidewinder.graph import Graph
from sidewinder.record import file_digest
from sidewinder.tokenizer.train import train_tokenizer
from sidewinder.tokens.indexed import IndexedWriter, bin_path

EOS = 2


def write_source(folder: Path, name: str, sizes: list[list[int]], dtype: Any = np.int32) -> list[dict[str, Any]]:
    """One shard for each list of document sizes; every token of the source is a different number, but for EOS."""
    shards, value = [], 10
    for number, lengths in enumerate(sizes):
        prefix = folder / f"{name}-{number}"
        with IndexedWriter(prefix, dtype) as writer:
            for length in lengths:
                writer.add([*range(value, value + length - 1), EOS])
                value += length - 1
        shard = {"prefix": str(prefix), "tokens": sum(lengths), "documents": len(lengths)}
        shards.append(shard | {"sha256_bin": file_digest(bin_path(prefix))})
    return shards


@pytest.fixture
def make_blend(tmp_path: Path) -> Callable[..., Path]:
    """`make_blend({"a": 0.7, …}, sizes={"a": [[5, 9], [7]]})` writes blend.json and its shards."""

    def make(weights: dict[str, float], sizes: dict[str, list[list[int]]], dtype: str = "int32") -> Path:
        sources = {
            name: {"weight": weight, "shards": write_source(tmp_path, name, sizes[name], dtype), "heldout": []}
            for name, weight in weights.items()
        }
        path = tmp_path / "blend.json"
        path.write_text(json.dumps({"vocab_size": 70_000, "eos": EOS, "dtype": dtype, "sources": sources}))
        return path

    return make


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A study whose corpora, of real text and odd characters, and tokenizer are made."""
    folder = tmp_path_factory.mktemp("study")
    write_odd(folder)
    graph = Graph(parse_study(study_values(folder)))
    for source in graph.source_configs:
        build_source(graph, source)
    train_tokenizer(graph)
    return graph
