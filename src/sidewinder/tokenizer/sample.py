"""The text that a tokenizer is trained on: lines of every source, in proportion to its weight in the blend."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from sidewinder.corpus.shards import read_shard, shard_path
from sidewinder.graph import Graph
from sidewinder.progress import Progress

LINE_CHARACTERS = 4096  # Longer lines are cut: what they hold is mostly data, and merges need no long lines.


@dataclass
class Sample:
    """Iterates over training lines; `taken_bytes` then says how much text came from each source.

    A source gives the beginning of its shards, whose documents are already shuffled; with several shards, `seed`
    decides which come first. A source that holds less than its part gives all it has.
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

    def lines(self) -> Iterator[str]:
        """Lines without their ends; empty ones are left out."""
        config = self.graph.study.tokenizer
        with Progress("tokenizer sample", total=config.sample_bytes, unit="bytes") as progress:
            for source, weight in self.graph.study.weights.items():
                self.taken_bytes[source] = 0
                for text in self._texts(source, round(config.sample_bytes * weight)):
                    size_bytes = len(text.encode())
                    self.taken_bytes[source] += size_bytes
                    progress.update(size_bytes)
                    yield from _lines(text)

    def _texts(self, source: str, part_bytes: int) -> Iterator[str]:
        """Documents of a source until its part is full."""
        shards = [shard for shard in self.graph.shards(source) if shard.startswith("train")]
        random.Random(f"tokenizer {self.graph.study.tokenizer.seed}").shuffle(shards)
        for shard in shards:
            for document in read_shard(shard_path(self.graph.corpus(source), shard)):
                if self.taken_bytes[source] >= part_bytes:
                    return
                yield document["text"]


def _lines(text: str) -> Iterator[str]:
    """Lines as the trainer takes them. It skips any with a NUL, which byte fallback spells anyway."""
    for line in text.split("\n"):
        line = line.replace("\0", "")
        for start in range(0, len(line), LINE_CHARACTERS):
            yield line[start : start + LINE_CHARACTERS]
