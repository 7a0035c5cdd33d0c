"""Exact duplicates over all shards of a source, in bounded memory.

Documents are numbered through all shards; the first of equal texts stays. Keys are scattered by value to files on disk
small enough to sort in memory, so that time grows with n log n and memory does not grow, but for one bit a document.
Equal keys met together while scattering are struck off at once: a text repeated a billion times fills no file.

Shapes: N records of some documents, K 64-bit words of a key.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidewinder.corpus.rows import KEY, pieces, save, shape_of
from sidewinder.errors import DataError

GIB = 2**30
WORKING_BYTES = 160  # Memory a record of two key words, with the copies that sorting makes.
LEAST_RECORDS = 10_000


@dataclass(frozen=True)
class Dropped:
    """What is left out of one shard."""

    documents: int = 0
    bytes: int = 0


class Numbering:
    """Numbers of documents through all shards; each begins at a multiple of 8, so that its bits are whole bytes."""

    def __init__(self, keys: list[Path]) -> None:
        self.counts = [shape_of(path, KEY)[0] for path in keys]
        self.starts, total = [], 0
        for count in self.counts:
            self.starts.append(total)
            total += -(-count // 8) * 8
        self.total = total


def exact(keys: list[Path], places: list[Path], *, memory_bytes: int = GIB) -> list[Dropped]:
    """Writes for each shard the sorted places (int64, .npy) of documents whose text came before; counts them.

    `keys` are the shards' keys.npy in order, `places` the files to write. On disk, 24 bytes a document are needed for a
    while beside them. Raises CorruptArtifact where a keys.npy cannot be read, DataError where `memory_bytes` is less
    than a bit a document and 1.6 MB.
    """
    numbering = Numbering(keys)
    left_out = np.zeros(numbering.total // 8, np.uint8)
    capacity = capacity_of(memory_bytes, left_out.nbytes, "exact deduplication", numbering.total)
    for _, later_N in twins(_records(keys, numbering, capacity), sum(numbering.counts), capacity, places[0].parent):
        np.bitwise_or.at(left_out, later_N >> 3, np.left_shift(1, later_N & 7).astype(np.uint8))
    dropped = []
    for shard, path in enumerate(places):
        start, count = numbering.starts[shard], numbering.counts[shard]
        bits = np.unpackbits(left_out[start // 8 : -(-(start + count) // 8)], bitorder="little")
        found = np.flatnonzero(bits).astype(np.int64)
        save(path, found)
        dropped.append(measure(keys[shard], found))
    return dropped


def capacity_of(memory_bytes: int, held_bytes: int, what: str, documents: int) -> int:
    """Records that fit in memory beside what is held throughout. Raises DataError where hardly any do."""
    capacity = (memory_bytes - held_bytes) // WORKING_BYTES
    if capacity < LEAST_RECORDS:
        least = held_bytes + LEAST_RECORDS * WORKING_BYTES
        raise DataError(
            f"{what} of {documents:,} documents does not fit in {memory_bytes:,} bytes of memory",
            remedy=f"give the job at least {least:,} bytes, or cut the source in two",
        )
    return capacity


def measure(keys: Path, places: np.ndarray) -> Dropped:
    """Documents and bytes at some sorted places of a shard."""
    size_bytes = first = 0
    for piece in pieces(keys, KEY, 1_000_000):
        here = places[np.searchsorted(places, first) : np.searchsorted(places, first + len(piece))]
        size_bytes += int(piece["bytes"][here - first].sum())
        first += len(piece)
    return Dropped(len(places), size_bytes)


def _records(keys: list[Path], numbering: Numbering, rows: int) -> Iterator[np.ndarray]:
    """[N, 3] of 64-bit words: second half of the hash, first half, number of the document.

    The first half is not spread evenly: documents below the held-out share are missing.
    """
    for path, start in zip(keys, numbering.starts, strict=True):
        number = start
        for piece in pieces(path, KEY, rows):
            halves = np.ascontiguousarray(piece["hash"]).view("<u8").reshape(-1, 2)
            numbers = np.arange(number, number + len(piece), dtype=np.uint64)
            yield np.column_stack((halves[:, 1], halves[:, 0], numbers))
            number += len(piece)


def twins(
    records: Iterable[np.ndarray], total: int, capacity: int, folder: Path
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(first_N, later_N): pairs of numbers of records with equal keys, such that every later one comes up exactly once
    as later, and the first of all is reached from it through the pairs.

    `records` are [N, K + 1] words, the number last, the first word spread evenly; at most `capacity` of them are sorted
    at a time. `folder` is where the scattered files lie meanwhile.
    """
    buckets = max(1, -(-total // capacity))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".twins-") as scratch:
        paths = [Path(scratch, f"{bucket:06d}") for bucket in range(buckets)]
        bounds = (np.arange(1, buckets, dtype=object) * 2**64 // buckets).astype(np.uint64)
        columns = 0
        for batch in _batches(records, capacity):
            columns = batch.shape[1]
            firsts, pairs = _strike(batch)
            yield pairs
            if buckets == 1:
                return
            cuts = [0, *np.searchsorted(firsts[:, 0], bounds), len(firsts)]
            for path, start, end in zip(paths, cuts, cuts[1:], strict=False):
                with path.open("ab") as stream:
                    stream.write(firsts[start:end].tobytes())
        for path in paths:
            if path.exists():
                yield _strike(np.fromfile(path, np.uint64).reshape(-1, columns))[1]
                path.unlink()


def _batches(records: Iterable[np.ndarray], capacity: int) -> Iterator[np.ndarray]:
    """Joins small pieces to batches of about half the capacity or more, never above it."""
    waiting: list[np.ndarray] = []
    count = 0
    for piece in records:
        if waiting and count + len(piece) > capacity:
            yield np.concatenate(waiting)
            waiting, count = [], 0
        waiting.append(piece)
        count += len(piece)
    if waiting:
        yield np.concatenate(waiting)


def _strike(records: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Records sorted by key, the first of each key alone; and the pairs (first, later) of the others."""
    records = records[np.argsort(records[:, 0])]
    same = records[1:, 0] == records[:-1, 0]
    doubtful = np.zeros(len(records), bool)
    doubtful[1:] = same
    doubtful[:-1] |= same
    some = records[doubtful]  # Most keys have no twin, so few records need the slow sort by all words.
    some = some[np.lexsort(some.T[::-1])]
    starts = np.ones(len(some), bool)
    starts[1:] = (some[1:, :-1] != some[:-1, :-1]).any(axis=1)
    numbers = some[:, -1].astype(np.int64)
    firsts = numbers[starts][np.cumsum(starts) - 1] if len(some) else numbers
    records[doubtful] = some  # Both are sorted by the first word, and equal first words stand together.
    keep = np.ones(len(records), bool)
    keep[doubtful] = starts
    return records[keep], (firsts[~starts], numbers[~starts])
