"""The study's held-out documents, as the tokens that the blend lists, with the tokenizer that made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sidewinder.errors import DataError
from sidewinder.graph import Graph
from sidewinder.record import RECORD, Artifact, outputs_of
from sidewinder.tokenizer import Tokenizer, load, model_file
from sidewinder.tokens.indexed import IndexedReader
from sidewinder.tokens.manifest import read_blend


@dataclass(frozen=True)
class Heldout:
    """Held-out documents of every source. Sources of text have a share and a language; look-up documents have none."""

    blend: Path
    """blend.json"""
    tokenizer_file: Path
    shares: dict[str, float] = field(default_factory=dict)
    languages: dict[str, str] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    """The files behind it, for the record of a job that reads it."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        found: Tokenizer = load(self.tokenizer_file)
        return found

    @cached_property
    def _sources(self) -> dict[str, Any]:
        return read_blend(self.blend)["sources"]

    @property
    def sources(self) -> list[str]:
        """All sources, in the blend's order."""
        return list(self._sources)

    def documents(self, source: str) -> Iterator[np.ndarray]:
        """Held-out documents of a source in order, without their end-of-document tokens.

        Raises DataError where the source holds none.
        """
        shards = self._sources[source]["heldout"]
        if not sum(shard["documents"] for shard in shards):
            raise DataError(
                f"source {source} has no held-out documents",
                remedy="raise heldout_share, or give the source more documents",
            )
        for shard in shards:
            reader = IndexedReader(shard["prefix"])
            for place in range(len(reader)):
                yield reader[place][:-1]


def heldout_of(graph: Graph) -> Heldout:
    """The held-out documents of a study whose blend has been written."""
    study = graph.study
    artifacts = outputs_of(graph.blend / RECORD)
    for source in study.weights:  # The blend's: an extension's own look-ups may not have been made yet.
        for shard in graph.shards(source):
            if shard.startswith("heldout"):
                artifacts += outputs_of(graph.tokens(source, shard) / RECORD)
    return Heldout(
        blend=graph.blend / "blend.json",
        tokenizer_file=model_file(graph.tokenizer),
        shares={name: share for name, share in study.blend.items() if share},
        languages={name: study.sources[name].language for name in study.blend},
        artifacts=artifacts,
    )
