"""Reads a source shard by shard and adds up what the readers counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from datatrove.data import Document

from sidewinder.config.corpus import Source
from sidewinder.corpus.pieces import Piece, divide
from sidewinder.corpus.read import Place, reader


@dataclass
class Found:
    documents: list[Document]
    counts: Counter[str]
    named: list[Place]

    @property
    def texts(self) -> list[str]:
        return [document.text for document in self.documents]

    @property
    def reasons(self) -> list[str]:
        return [str(place) for place in self.named]


def source(**values: Any) -> Source:
    return Source.model_validate({"reader": values})


def read(config: Source, shards: int | list[list[Piece]] = 1) -> Found:
    found = Found([], Counter(), [])
    for pieces in divide(config.reader, shards) if isinstance(shards, int) else shards:
        step = reader(config, pieces)
        found.documents += list(step.run())
        found.counts.update({label: int(value.total) for label, value in step.stats.stats.items()})
        found.named += step.named
    return found
