"""A source as endless sequences in a shuffled order that is computed from seed and place alone.

The documents of a source lie in its shards in shuffled order already; one after the other, epoch after epoch, they
make one endless stream. It is cut into pieces of a context's length, and those of an epoch are shuffled as a whole:
otherwise a document of many sequences would fill a batch, and a short run would see few shards. Every epoch but the
first begins at another document, so that it is cut elsewhere.

A source that is a curriculum is not shuffled (`InOrder`). Alternatively (`PackedStream`) an index says which documents
share a sequence; then these sequences are shuffled.

M tokens of a row: those of a context and one before them, so that a row's first M - 1 predict its last M - 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np

from sidewinder.tokens.index import Index
from sidewinder.tokens.permutation import Permutation, keys
from sidewinder.tokens.store import Store

SHUFFLES_KEPT = 4


class Stream(Protocol):
    """A source, or a part of it, as the loader reads it."""

    name: str
    sequences: int
    """Sequences of an epoch."""
    predicted_tokens: int
    """Tokens of an epoch that are predicted."""
    places: Shuffle | InOrder
    """The order of its sequences."""

    def fill(self, sequences: np.ndarray, rows: np.ndarray, tokens_BM: np.ndarray, ignored_BL: np.ndarray) -> None:
        """Writes sequences of this source into rows of a batch, and marks those targets that are not to be predicted.

        A source's sequences are counted from 0, on and on through all epochs.
        """


class Shuffle:
    """The order of a source's sequences: those of an epoch shuffled as a whole, anew in every epoch."""

    def __init__(self, sequences: int, *seed: object) -> None:
        self.sequences = sequences
        self._of = lru_cache(SHUFFLES_KEPT)(lambda epoch: Permutation(sequences, *seed, epoch, "sequences"))

    def __call__(self, sequences: np.ndarray) -> np.ndarray:
        """Place of each sequence in the endless row of all epochs' sequences."""
        epochs, turns = np.divmod(sequences, self.sequences)
        places = np.empty_like(turns)
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            places[mine] = epoch * self.sequences + self._of(epoch)(turns[mine])
        return places


class InOrder:
    """The order of a source that is a curriculum: a run of so many of its sequences goes from the first to the last.

    Where the run is shorter than the source, sequences are passed over at equal distances; where it is longer, they are
    read several times in a row.
    """

    def __init__(self, sequences: int, wanted: int) -> None:
        self.sequences, self.wanted = sequences, max(1, wanted)

    def __call__(self, sequences: np.ndarray) -> np.ndarray:
        """Place of each sequence in the source."""
        return sequences * self.sequences // self.wanted


class SourceStream:
    """All documents of a source, or those that an index lists, as one stream that is cut into pieces."""

    def __init__(self, name: str, store: Store, seed: int, context_tokens: int, index: Index | None = None) -> None:
        self.name, self.store, self.index, self.context_tokens = name, store, index, context_tokens
        sizes = [shard.tokens for shard in store.shards] if index is None else index.tokens
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self.tokens = int(self._ends[-1])
        self.sequences = max(1, self.tokens // context_tokens)
        self.predicted_tokens = self.sequences * context_tokens
        self.places: Shuffle | InOrder = Shuffle(self.sequences, seed, name)
        self._turn = lru_cache(SHUFFLES_KEPT)(lambda epoch: self._drawn(epoch, seed))

    def fill(self, sequences: np.ndarray, rows: np.ndarray, tokens_BM: np.ndarray, ignored_BL: np.ndarray) -> None:
        """See Stream; all targets are predicted."""
        for row, place in zip(rows.tolist(), self.places(sequences).tolist(), strict=True):
            self._copy(place * self.context_tokens, tokens_BM[row])

    def read(self, position: int, count: int) -> np.ndarray:
        """Tokens position … position + count - 1 of the endless stream, as int64; 0 is its first token."""
        tokens = np.empty(count, dtype=np.int64)
        self._copy(position, tokens)
        return tokens

    def _copy(self, position: int, target: np.ndarray) -> None:
        done, count = 0, len(target)
        while done < count:
            epoch, place = divmod(position + done, self.tokens)
            turned = (place + self._turn(epoch)) % self.tokens
            for shard, start, length in self._spans(turned, min(count - done, self.tokens - max(place, turned))):
                target[done : done + length] = self.store.tokens(shard)[start : start + length]
                done += length

    def _spans(self, place: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first token, tokens) of the stretches of files that hold `count` tokens of an epoch as it lies."""
        while count:
            shard = int(np.searchsorted(self._ends, place, side="right"))
            before = int(self._ends[shard - 1]) if shard else 0
            length = min(count, int(self._ends[shard]) - place)
            if self.index is None:
                yield shard, place - before, length
            else:
                for start, part in self._listed(shard, place - before, length):
                    yield shard, start, part
            place, count = place + length, count - length

    def _listed(self, shard: int, place: int, count: int) -> Iterator[tuple[int, int]]:
        """(first token, tokens) of stretches of a shard that hold tokens of its listed documents."""
        assert self.index
        index = self.index.shard(shard)
        document = int(np.searchsorted(index.ends, place, side="right"))
        before = int(index.ends[document - 1]) if document else 0
        while count:
            end = int(index.ends[document])
            length = min(count, end - place)
            yield int(index.starts[document]) + place - before, length
            document, before, place, count = document + 1, end, place + length, count - length

    def _drawn(self, epoch: int, seed: int) -> int:
        """Where an epoch begins: with the first document, or in later ones with one that is drawn."""
        if not epoch:
            return 0
        drawn = int(keys(1, seed, self.name, epoch, "turn")[0]) % self.tokens
        shard = int(np.searchsorted(self._ends, drawn, side="right"))
        before = int(self._ends[shard - 1]) if shard else 0
        if self.index is None:
            return before + self.store.document_start(shard, drawn - before)
        ends = self.index.shard(shard).ends
        document = int(np.searchsorted(ends, drawn - before, side="right"))
        return before + (int(ends[document - 1]) if document else 0)


class PackedStream:
    """Documents of a source in sequences of their own, as an index lays them.

    A row begins with an end of document, or with the token before where it goes on with a cut document. What is left
    over is filled with ends of document and not predicted; nor is the first token of a cut document's rest behind
    another document. Every other token of an epoch is predicted exactly once.
    """

    def __init__(self, name: str, store: Store, seed: int, context_tokens: int, index: Index, eos: int) -> None:
        self.name, self.store, self.index, self.eos = name, store, index, eos
        self._ends = np.cumsum(index.sequences)
        self.sequences = int(self._ends[-1])
        self.predicted_tokens = int(index.tokens.sum()) - index.continued
        self.places: Shuffle | InOrder = Shuffle(self.sequences, seed, name)

    def fill(self, sequences: np.ndarray, rows: np.ndarray, tokens_BM: np.ndarray, ignored_BL: np.ndarray) -> None:
        """See Stream."""
        for row, place in zip(rows.tolist(), (self.places(sequences) % self.sequences).tolist(), strict=True):
            shard = int(np.searchsorted(self._ends, place, side="right"))
            before = int(self._ends[shard - 1]) if shard else 0
            self._lay(shard, place - before, tokens_BM[row], ignored_BL[row])

    def _lay(self, shard: int, sequence: int, tokens_M: np.ndarray, ignored_L: np.ndarray) -> None:
        source = self.store.tokens(shard)
        starts, lengths = self.index.shard(shard).sequence(sequence)
        tokens_M[0], place = self.eos, 1
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            if start < 0:
                start = ~start
                if place == 1:
                    tokens_M[0] = source[start - 1]
                else:
                    ignored_L[place - 1] = True
            tokens_M[place : place + length] = source[start : start + length]
            place += length
        tokens_M[place:], ignored_L[place - 1 :] = self.eos, True
