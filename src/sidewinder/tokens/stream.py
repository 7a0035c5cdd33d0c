"""A source as one endless stream of tokens: its documents in shuffled order, shuffled anew in every epoch.

In each epoch the shards are shuffled, and in each shard the documents: the corpus stage deals documents to shards by
hash, so this is a shuffle of the whole source that never holds more than a few shards' order in memory.

The stream is cut into sequences, and these are shuffled once more, in blocks of at most an epoch: otherwise a document
of many sequences would fill a batch, and a short run would see few documents.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidewinder.errors import CorruptArtifact
from sidewinder.tokens.indexed import IndexedReader, bin_path

BLOCK_SEQUENCES = 1 << 16  # Few enough for a block to lie in a few shards, and to be shuffled in a millisecond.
ORDERS_KEPT = 4  # Shards that a block of sequences may lie in.


@dataclass(frozen=True)
class Shard:
    """A tokenized file as the blend lists it."""

    prefix: Path
    tokens: int
    documents: int


@dataclass(frozen=True)
class Order:
    """One shard in one epoch."""

    reader: IndexedReader
    documents: np.ndarray  # int64: document at each place
    ends: np.ndarray  # int64: tokens up to and with the document at each place


class SourceStream:
    """Random access to the stream of one source; position 0 is the first token of its first epoch."""

    def __init__(self, name: str, shards: list[Shard], token_bytes: int, seed: int) -> None:
        self.name, self.shards, self.seed = name, shards, seed
        for shard in shards:
            _check_size(shard, token_bytes)
        self.tokens = sum(shard.tokens for shard in shards)
        self._block: tuple[int, int, np.ndarray] = (0, -1, np.empty(0))
        self._orders: OrderedDict[tuple[int, int], Order] = OrderedDict()

    def read(self, position: int, count: int) -> np.ndarray:
        """Tokens position … position + count - 1 of the stream, as int64."""
        tokens = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            epoch, place = divmod(position + done, self.tokens)
            shard, place = self._shard_at(epoch, place)
            done += self._copy(self._order(epoch, shard), place, tokens[done:])
        return tokens

    def place(self, sequence: int, context_tokens: int) -> int:
        """Which piece of the stream, counted in contexts, is the source's `sequence`-th to be trained on."""
        size = min(BLOCK_SEQUENCES, max(1, self.tokens // context_tokens))
        block, turn = divmod(sequence, size)
        if self._block[:2] != (size, block):
            self._block = size, block, permutation(size, self.seed, self.name, block, "sequences")
        return block * size + int(self._block[2][turn])

    def _shard_at(self, epoch: int, place: int) -> tuple[int, int]:
        """Shard that holds a place of an epoch, and the place in it."""
        shards = permutation(len(self.shards), self.seed, self.name, epoch, "shards")
        ends = np.cumsum([self.shards[shard].tokens for shard in shards])
        turn = int(np.searchsorted(ends, place, side="right"))
        return int(shards[turn]), place - (int(ends[turn - 1]) if turn else 0)

    def _copy(self, order: Order, place: int, target: np.ndarray) -> int:
        """Copies tokens of a shard from `place` on until the target is full or the shard ends; returns how many."""
        turn = int(np.searchsorted(order.ends, place, side="right"))
        skipped = place - (int(order.ends[turn - 1]) if turn else 0)
        done = 0
        while done < len(target) and turn < len(order.documents):
            document = order.reader[int(order.documents[turn])]
            part = document[skipped : skipped + len(target) - done]
            target[done : done + len(part)] = part
            done, turn, skipped = done + len(part), turn + 1, 0
        return done

    def _order(self, epoch: int, shard: int) -> Order:
        """Document order of a shard in an epoch; the last few are kept."""
        key = epoch, shard
        if key not in self._orders:
            reader = IndexedReader(self.shards[shard].prefix)
            if len(reader) != self.shards[shard].documents:
                raise CorruptArtifact(
                    f"{reader.prefix}.idx has {len(reader):,} documents; "
                    f"the blend promises {self.shards[shard].documents:,}",
                    remedy=f"delete {reader.prefix.parent} and run the study again",
                )
            documents = permutation(len(reader), self.seed, self.name, epoch, shard)
            ends = np.cumsum(reader.sizes[documents], dtype=np.int64)
            self._orders[key] = Order(reader, documents, ends)
            while len(self._orders) > ORDERS_KEPT:
                self._orders.popitem(last=False)
        self._orders.move_to_end(key)
        return self._orders[key]


def permutation(length: int, *seed: object) -> np.ndarray:
    """A shuffled 0 … length - 1 that depends on the seed alone, not on any library's generator.

    Each number is mixed with the seed by splitmix64's finaliser (doi 10.1145/2660193.2660195); sorting shuffles.
    """
    key = hashlib.blake2b("/".join(map(str, seed)).encode(), digest_size=8).digest()
    mixed = np.arange(length, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(int.from_bytes(key))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")


def _check_size(shard: Shard, token_bytes: int) -> None:
    """Raises CorruptArtifact where the token file is missing or has not the promised size."""
    path, expected = bin_path(shard.prefix), shard.tokens * token_bytes
    try:
        found = os.stat(path).st_size
    except OSError as error:
        found, reason = -1, f"{error.strerror}"
    else:
        reason = f"it has {found:,} bytes; the blend promises {expected:,}"
    if found != expected:
        raise CorruptArtifact(f"cannot read {path}: {reason}", remedy=f"delete {path.parent} and run the study again")
