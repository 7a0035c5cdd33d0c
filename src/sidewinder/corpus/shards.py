"""Text files of a corpus: JSON lines, one document a line ({"id", "text"} and, where known, "language"), compressed.

<source folder>/train-00000/text.jsonl.zst      what training may read of this shard
                           /heldout.jsonl.zst   what it must not
                           /keys.npy            hash and bytes of every text in text.jsonl.zst, in order (see rows.py)
                           /signatures.npy      what near duplicates are found by, where that is asked
<source folder>/duplicates/train-00000.npy      places in text.jsonl.zst that are left out
               /heldout-00000.jsonl.zst         held-out documents of all shards
               /summary.json                    documents and bytes that each shard then has
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson
import zstandard

from sidewinder.corpus.compressed import decompressed
from sidewinder.errors import CorruptArtifact
from sidewinder.graph import HELDOUT, Graph
from sidewinder.record import read_record

TEXT, HELDOUT_TEXT, KEYS, SIGNATURES = "text.jsonl.zst", "heldout.jsonl.zst", "keys.npy", "signatures.npy"
SUMMARY, DUPLICATES = "summary.json", "duplicates"
LEVEL = 1  # Zstandard's fastest: a third larger than gzip's files at a tenth of the time to write and read.
BUFFER_BYTES = 1 << 20


class TextWriter:
    """Writes lines beside `path`; the file gets its name when the `with` block ends without an error.

    The same lines make the same bytes: no name and no time is in the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.part")

    def write(self, line: bytes) -> None:
        """Appends one line, given without its end."""
        self._packed.write(line + b"\n")

    def __enter__(self) -> Self:
        self._stream = self._part.open("wb", buffering=BUFFER_BYTES)
        self._packed = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(
            self._stream, closefd=False
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._stream:
                if error is None:
                    self._packed.close()
                    self._stream.flush()
                    os.fsync(self._stream.fileno())
            if error is None:
                self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)


def text_path(graph: Graph, source: str, shard: str) -> Path:
    """The file that holds a shard's documents."""
    folder = graph.corpus(source)
    return folder / f"{shard}.jsonl.zst" if shard == HELDOUT else folder / shard / TEXT


def duplicates_path(graph: Graph, source: str, shard: str) -> Path:
    """The file that says which documents of a training shard are left out."""
    return graph.corpus(source) / DUPLICATES / f"{shard}.npy"


def promised(graph: Graph, source: str) -> dict[str, tuple[int, int]]:
    """Documents, and their bytes of text, that `documents` gives, for every shard of a source."""
    summary = read_record(graph.corpus(source) / SUMMARY)
    return {shard: (entry["documents"], entry["bytes"]) for shard, entry in summary.items()}


def documents(graph: Graph, source: str, shard: str) -> Iterator[dict[str, Any]]:
    """Documents of a shard in order, without those left out as duplicates.

    Raises CorruptArtifact where a file is missing, truncated or altered.
    """
    path = text_path(graph, source, shard)
    left_out = _left_out(duplicates_path(graph, source, shard)) if shard != HELDOUT else iter(())
    skip = next(left_out, None)
    for place, line in enumerate(read_lines(path)):
        if place == skip:
            skip = next(left_out, None)
        else:
            yield _parsed(line, path)


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines of a compressed file, ends included, in constant memory.

    Raises CorruptArtifact, naming the file, where it is missing, truncated or altered.
    """
    try:
        with path.open("rb", buffering=0) as stored:
            yield from decompressed(stored, path.name)
            if not stored.tell():
                raise EOFError("it is empty")
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise _corrupt(path, error) from error


def _left_out(path: Path) -> Iterator[int]:
    if not path.is_file():
        raise _corrupt(path, "it does not exist")
    try:
        yield from np.load(path, mmap_mode="r", allow_pickle=False).tolist()
    except (OSError, ValueError) as error:
        raise _corrupt(path, error) from error


def _parsed(line: bytes, path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = orjson.loads(line)
    except ValueError as error:
        raise _corrupt(path, error) from error
    return document


def _corrupt(path: Path, reason: object) -> CorruptArtifact:
    return CorruptArtifact(
        f"cannot read the shard {path}: {reason}", remedy=f"delete {path.parent} and run the study again"
    )
