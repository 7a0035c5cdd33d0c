"""The text that a tokenizer is trained on: lines of every source, in proportion to its weight in the blend."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from sidewinder.corpus.shards import documents, promised
from sidewinder.graph import HELDOUT, Graph
from sidewinder.progress import Progress

LINE_CHARACTERS = 4096  # Longer lines are cut: what they hold is mostly data, and merges need no long lines.
DOCUMENT_CHARACTERS = 1 << 20  # Of one document, so that none fills a sample.
READ_TIMES = 4  # Of a large source, shards with that many times its part are read, however many it has.
SPARE = 1.1  # More than its part is chosen, because a choice by hash gives its share on average only.


@dataclass
class Sample:
    """Iterates over training lines; `taken_bytes` then says how much text came from each source.

    Shards are drawn by seed, and documents of these by the hash of their text, so that neither the order of a source
    nor its cut into shards decides what is seen. A source that holds less than its part gives all it has.
    """

    graph: Graph
    taken_bytes: dict[str, int] = field(default_factory=dict)
    failure: BaseException | None = None
    """What ended the iteration early: SentencePiece turns an error of its input into one of its own."""

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self.lines()
        except (Exception, KeyboardInterrupt) as error:
            self.failure = error
            raise

    @cached_property
    def parts(self) -> dict[str, int]:
        """Bytes that each source is to give: its share of the sample, or all that it has."""
        settings, weights = self.graph.study.tokenizer, self.graph.study.weights
        return {
            source: min(round(settings.sample_bytes * weight), sum(self._sizes(source).values()))
            for source, weight in weights.items()
        }

    def lines(self) -> Iterator[str]:
        """Lines without their ends; empty ones are left out."""
        with Progress("tokenizer sample", total=sum(self.parts.values()), unit="bytes") as progress:
            for source, part_bytes in self.parts.items():
                self.taken_bytes[source] = 0
                for text in self._texts(source, part_bytes):
                    size_bytes = len(text.encode())
                    self.taken_bytes[source] += size_bytes
                    progress.update(size_bytes)
                    yield from _lines(text)

    def _texts(self, source: str, part_bytes: int) -> Iterator[str]:
        """Documents of a source until its part is full."""
        sizes, seed = self._sizes(source), self.graph.study.tokenizer.seed
        shards = sorted(sizes)
        random.Random(f"tokenizer {seed}").shuffle(shards)
        shards, read_bytes = _enough(shards, sizes, READ_TIMES * part_bytes)
        low, high = 0.0, SPARE * part_bytes / max(1, read_bytes)
        while low < 1 and self.taken_bytes[source] < part_bytes:  # Seldom more than once.
            for shard in shards:
                for document in documents(self.graph, source, shard):
                    text: str = document["text"]
                    if low <= _chance(text, seed) < high:
                        yield text[:DOCUMENT_CHARACTERS]
                    if self.taken_bytes[source] >= part_bytes:
                        return
            low, high = high, 2 * high

    def _sizes(self, source: str) -> dict[str, int]:
        """Bytes of every training shard."""
        return {
            shard: size_bytes for shard, (_, size_bytes) in promised(self.graph, source).items() if shard != HELDOUT
        }


def _enough(shards: list[str], sizes: dict[str, int], least_bytes: int) -> tuple[list[str], int]:
    """The first shards that together have so many bytes, and how many they have."""
    total = 0
    for count, shard in enumerate(shards, 1):
        total += sizes[shard]
        if total >= least_bytes:
            return shards[:count], total
    return shards, total


def _chance(text: str, seed: int) -> float:
    """A number from 0 to 1 that stands for a text."""
    drawn = hashlib.blake2b(text.encode(), digest_size=8, salt=f"sample{seed}".encode()[:16]).digest()
    return int.from_bytes(drawn) / 2**64


def _lines(text: str) -> Iterator[str]:
    """Lines as the trainer takes them. It skips any with a NUL, which byte fallback spells anyway."""
    for line in text.split("\n"):
        line = line.replace("\0", "")
        for start in range(0, len(line), LINE_CHARACTERS):
            yield line[start : start + LINE_CHARACTERS]
