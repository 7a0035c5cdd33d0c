"""Near duplicates by MinHash, with the signatures of datatrove.

A document's words (simplified as datatrove does) make n-grams; `buckets` × `hashes_per_bucket` hash functions each give
the least value over them; a bucket's values become one 64-bit key. Documents that share a key in some bucket are
joined, and the first of each cluster stays. A shard's job computes keys from its own text alone; the survey of the
source compares them. What is found does not depend on the number of shards or workers: the least number of a cluster
stays, and numbers follow the reading order.

datatrove's later stages are replaced: they merge signatures of 900 bytes a document in Python, and keep a document of
each cluster that depends on the order of pairs.

Shapes: S n-grams (shingles) of a document, H hash functions, B buckets, D documents of a shard.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import xxhash
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.text import TextNormConfig, simplify_text

from sidewinder.config.filters import MinHash
from sidewinder.corpus.duplicates import GIB, Dropped, Numbering, capacity_of, measure, twins
from sidewinder.corpus.filters.block import encoded
from sidewinder.corpus.filters.words import words
from sidewinder.corpus.rows import pieces, save, shape_of, write_header
from sidewinder.errors import CorruptArtifact

WORD = np.dtype("<u8")
PRIME = np.uint64(2**61 - 1)
SHINGLES_AT_ONCE = 512  # Their hashes stay in the processor's cache; a document of any length needs no more memory.

_PLAIN = TextNormConfig(norm_unicode_diacritics=False)  # ASCII has no diacritics, and looking for them is slow.


class Signatures:
    """Writes the bucket keys of a shard's documents, in the order of its text file, to one .npy file.

    The file is a [1 + B, D'] array of 64-bit words: places of the D' documents that have at least one n-gram, then
    their keys of each bucket. It gets its name on leaving without an error.
    """

    def __init__(self, path: Path, config: MinHash) -> None:
        self.path, self.hashing, self.place = path, Hashing(config), 0
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._rows = path.with_name(f".{path.name}.{os.getpid()}.rows")

    def run(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Passes on what is written to the shard, and signs it."""
        for document in documents:
            self.add(document.text)
            yield document

    def add(self, text: str) -> None:
        """Signs the next document of the shard."""
        keys_B = self.hashing.keys(text)
        if keys_B is not None:
            self._stream.write(np.uint64(self.place).tobytes() + keys_B.tobytes())
        self.place += 1

    def __enter__(self) -> Self:
        self._stream = self._rows.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stream.close()
            if kind is None:
                self._transpose()
                self._part.replace(self.path)
        finally:
            self._rows.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)

    def _transpose(self) -> None:
        """Documents as rows → as columns: a bucket is then read without the others."""
        columns = 1 + self.hashing.config.buckets
        count = self._rows.stat().st_size // (8 * columns)
        with self._part.open("wb") as stream:
            write_header(stream, WORD, (columns, count))
            if count:
                rows = np.memmap(self._rows, WORD, "r", shape=(count, columns))
                for column in range(columns):
                    np.ascontiguousarray(rows[:, column]).tofile(stream)
            stream.flush()
            os.fsync(stream.fileno())


class Hashing:
    """datatrove's hash functions of a seed, and the bucket keys of a text."""

    def __init__(self, config: MinHash) -> None:
        self.config = config

    @cached_property
    def parameters(self) -> tuple[np.ndarray, np.ndarray]:
        """Multipliers_1H and summands_1H."""
        config = MinhashConfig(self.config.ngram, self.config.buckets, self.config.hashes_per_bucket, self.config.seed)
        return MinhashDedupSignature(".", config, language=words()).parameters

    def shingles(self, text: str) -> np.ndarray:
        """shingles_S: hashes of n-grams of words; none where the text has fewer words than that."""
        parts = words().word_tokenize(simplify_text(text, _PLAIN) if text.isascii() else simplify_text(text))
        parts_bytes = [encoded(part) for part in parts]
        joined = memoryview(b" ".join(parts_bytes))
        ends = np.cumsum([len(part) + 1 for part in parts_bytes]) - 1
        starts = [0, *(ends[:-1] + 1).tolist()]
        hashes = (
            xxhash.xxh64_intdigest(joined[start:end])
            for start, end in zip(starts, ends[self.config.ngram - 1 :].tolist(), strict=False)
        )
        return np.fromiter(hashes, np.uint64)

    def signature(self, shingles_S: np.ndarray) -> np.ndarray:
        """signature_H: the least value of each hash function, as datatrove computes it."""
        multipliers_1H, summands_1H = self.parameters
        least_H = np.full(multipliers_1H.shape[1], PRIME)
        for start in range(0, len(shingles_S), SHINGLES_AT_ONCE):
            values_SH = shingles_S[start : start + SHINGLES_AT_ONCE, None] * multipliers_1H
            values_SH += summands_1H
            high_SH = values_SH >> np.uint64(61)
            values_SH &= PRIME
            values_SH += high_SH
            np.minimum(least_H, values_SH.min(axis=0), out=least_H)
            values_SH -= PRIME  # The last step modulo 2^61 - 1: what was below the prime becomes huge, and no minimum.
            np.minimum(least_H, values_SH.min(axis=0), out=least_H)
        return least_H

    def keys(self, text: str) -> np.ndarray | None:
        """keys_B: one 64-bit word a bucket; none for a text without an n-gram."""
        shingles_S = self.shingles(text)
        if not len(shingles_S):
            return None
        signature = self.signature(shingles_S).astype("<u8").tobytes()
        step = 8 * self.config.hashes_per_bucket
        return np.array(
            [xxhash.xxh3_64_intdigest(signature[start : start + step]) for start in range(0, len(signature), step)],
            WORD,
        )


def near(
    signatures: list[Path],
    keys: list[Path],
    exact_places: list[Path],
    places: list[Path],
    config: MinHash,
    *,
    memory_bytes: int = GIB,
) -> list[Dropped]:
    """Writes for each shard the sorted places of documents to leave out: its exact duplicates (`exact_places`, written
    by `exact`) and its near ones. Counts the near ones that are not exact.

    Memory: 8 bytes a document, and what is left of `memory_bytes` to compare. On disk, 16 bytes a document are needed
    for a while beside `places`. Raises CorruptArtifact where a file cannot be read or does not fit its shard, DataError
    where `memory_bytes` is too little.
    """
    numbering = Numbering(keys)
    _check(signatures, numbering, config)
    parents = np.arange(numbering.total, dtype=np.int64)
    capacity = capacity_of(memory_bytes, parents.nbytes, "MinHash deduplication", numbering.total)
    for bucket in range(config.buckets):
        records = _records(signatures, numbering, bucket, capacity)
        for first, later in twins(records, sum(numbering.counts), capacity, places[0].parent):
            join(parents, first, later)
    dropped = []
    for shard, path in enumerate(places):
        start, count = numbering.starts[shard], numbering.counts[shard]
        own = parents[start : start + count]
        close = np.flatnonzero(own != np.arange(start, start + count))
        equal = np.concatenate([np.zeros(0, np.int64), *pieces(exact_places[shard], np.dtype("<i8"), 10_000_000)])
        save(path, np.union1d(equal, close).astype(np.int64))
        dropped.append(measure(keys[shard], np.setdiff1d(close, equal, assume_unique=True)))
    return dropped


def _check(signatures: list[Path], numbering: Numbering, config: MinHash) -> None:
    """Raises CorruptArtifact where a signature file was made with other settings or for another shard."""
    for path, count in zip(signatures, numbering.counts, strict=True):
        rows, signed = shape_of(path, WORD)
        if rows != 1 + config.buckets or signed > count:
            raise CorruptArtifact(
                f"{path}: {signed:,} documents of {rows - 1} buckets, wanted at most {count:,} of {config.buckets}",
                remedy=f"delete {path.parent} and run the study again",
            )


def _records(signatures: list[Path], numbering: Numbering, bucket: int, rows: int) -> Iterator[np.ndarray]:
    """[N, 2] of 64-bit words: key, number of the document."""
    for path, start in zip(signatures, numbering.starts, strict=True):
        found = pieces(path, WORD, rows, part=1 + bucket)
        for keys_N, places_N in zip(found, pieces(path, WORD, rows, part=0), strict=True):
            yield np.column_stack((keys_N, places_N + np.uint64(start)))


def join(parents: np.ndarray, some: np.ndarray, others: np.ndarray) -> None:
    """Joins the clusters of pairs of documents. Parents never have larger numbers, so the root is a cluster's first."""
    while len(some):
        some, others = _roots(parents, some), _roots(parents, others)
        apart = some != others
        some, others = some[apart], others[apart]
        np.minimum.at(parents, np.maximum(some, others), np.minimum(some, others))


def _roots(parents: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The first documents of the clusters of some documents, which are then their parents."""
    roots = parents[numbers]
    while not np.array_equal(above := parents[roots], roots):
        roots = above
    parents[numbers] = roots
    return roots
