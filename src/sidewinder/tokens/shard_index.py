"""The index of one shard: which parts of it training reads, and where it lays whole documents, in which sequences.

A file of little-endian int64, mapped into memory when it is read:

    head        HEAD numbers: version, sequences S, parts P, documents, tokens, parts continued, tokens of parts, 0,
                then documents and tokens of each bin of lengths
    int64[S+1]  first part of each sequence, then P (S is 0 where documents are read as one stream)
    int64[P]    first token of each part in the shard; ~first where it goes on with a document that began before
    int64[P]    tokens up to and with each part
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from sidewinder.config.packing import Packing
from sidewinder.errors import CorruptArtifact
from sidewinder.tokens.lengths import BINS, chunks, histogram
from sidewinder.tokens.packing import Packer, Sequences
from sidewinder.tokens.store import Shard, open_shard

VERSION = 1
COUNTS = 8
HEAD = COUNTS + 2 * BINS
NUMBER = np.dtype("<i8")


@dataclass(frozen=True)
class Layout:
    """Which documents are read, and how they are laid into sequences."""

    packing: Packing
    context_tokens: int
    """0 where documents are read as one stream: the index does not depend on it."""
    minimum_tokens: int
    """Shorter documents are left out."""


@dataclass(frozen=True)
class Counts:
    """What the head of an index tells."""

    sequences: int
    parts: int
    documents: int
    tokens: int
    continued: int
    """Parts that go on with a document behind another one, so that their first token cannot be predicted."""
    lengths: np.ndarray
    """(2, BINS): documents and their tokens by length."""

    @property
    def size_bytes(self) -> int:
        return NUMBER.itemsize * (HEAD + self.sequences + 1 + 2 * self.parts)


class ShardIndex:
    """An index, mapped into memory. Raises CorruptArtifact, naming the file, where it is missing or truncated."""

    def __init__(self, path: Path) -> None:
        counts = read_counts(path)
        if counts is None:
            remedy = f"delete {path.parent} and run the study again: it is made anew"
            raise CorruptArtifact(f"{path} is missing, truncated or of another version", remedy=remedy)
        whole = np.memmap(path, dtype=NUMBER, mode="r").view(np.ndarray)
        self.bounds, self.starts, self.ends = np.split(
            whole[HEAD:], [counts.sequences + 1, counts.sequences + 1 + counts.parts]
        )

    def sequence(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """(starts, lengths) of the parts of a sequence."""
        first, end = self.bounds[place : place + 2].tolist()
        before = self.ends[first - 1] if first else 0
        return self.starts[first:end], np.diff(self.ends[first:end], prepend=before)


def read_counts(path: Path) -> Counts | None:
    """The head of an index; None where the file is missing, truncated or of another version."""
    try:
        head = np.fromfile(path, dtype=NUMBER, count=HEAD)
        size_bytes = path.stat().st_size
    except OSError:
        return None
    if len(head) < HEAD or head[0] != VERSION:
        return None
    sequences, parts, documents, tokens, continued = head[1:6].tolist()
    counts = Counts(sequences, parts, documents, tokens, continued, head[COUNTS:].reshape(2, BINS))
    return counts if counts.size_bytes == size_bytes else None


def write_index(shard: Shard, layout: Layout, path: Path) -> None:
    """Makes the index of a shard, in constant memory. Raises CorruptArtifact where the shard is damaged."""
    with ExitStack() as files:
        # The parts have no name until they are whole, so that nothing is left of them when the process is killed.
        bounds, starts, ends = (files.enter_context(TemporaryFile(dir=path.parent)) for _ in range(3))
        head = np.zeros(HEAD, dtype=NUMBER)
        head[0] = VERSION
        bounds.write(bytes(NUMBER.itemsize))
        for laid in _laid(shard, layout, head[COUNTS:].reshape(2, BINS)):
            _append(laid, head, bounds, starts, ends)
        head[3:5] = head[COUNTS:].reshape(2, BINS).sum(axis=1)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as stream:
                stream.write(head.tobytes())
                for file in (bounds, starts, ends):
                    file.seek(0)
                    shutil.copyfileobj(file, stream, 1 << 20)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _append(laid: Sequences, head: np.ndarray, bounds: IO[bytes], starts: IO[bytes], ends: IO[bytes]) -> None:
    """Adds finished sequences, or parts of a stream, and counts them in head: sequences, parts, continued."""
    first = np.cumsum(laid.parts) - laid.parts
    behind = np.ones(len(laid.starts), dtype=bool)
    behind[first] = False
    bounds.write((head[2] + first + laid.parts).astype(NUMBER).tobytes())
    starts.write(laid.starts.astype(NUMBER).tobytes())
    ends.write((head[6] + np.cumsum(laid.lengths)).astype(NUMBER).tobytes())
    head[1] += len(laid.parts)
    head[2] += len(laid.starts)
    head[5] += np.count_nonzero((laid.starts < 0) & behind)
    head[6] += laid.lengths.sum()


def _laid(shard: Shard, layout: Layout, lengths: np.ndarray) -> Iterator[Sequences]:
    """The chosen documents, laid into sequences or, for a stream, just listed; adds them to the histogram."""
    packer = Packer(layout.context_tokens) if layout.packing == "documents" else None
    for starts, sizes in _chosen(shard, layout.minimum_tokens):
        lengths += histogram(sizes)
        yield packer.add(starts, sizes) if packer else Sequences(starts, sizes, np.empty(0, dtype=np.int64))
    if packer:
        yield packer.close()


def _chosen(shard: Shard, minimum_tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(first token, tokens) of the documents that are long enough; empty ones never are."""
    place = 0
    for sizes in chunks(open_shard(shard).sizes):
        starts = place + np.cumsum(sizes) - sizes
        place += int(sizes.sum())
        long = np.flatnonzero(sizes >= max(1, minimum_tokens))
        yield starts[long], sizes[long]
    if place != shard.tokens:
        raise CorruptArtifact(
            f"{shard.prefix}.idx lists documents of {place:,} tokens; the blend promises {shard.tokens:,}",
            remedy=f"delete {shard.prefix.parent} and run the study again",
        )
