"""Megatron's indexed data set: `prefix.bin` holds tokens, `prefix.idx` where each document lies.

prefix.idx, little-endian, version 1:

    9 bytes     MMIDIDX\\0\\0
    uint64      version, 1
    uint8       type of a token: 4 int32, 8 uint16 (others exist)
    uint64      sequences S
    uint64      documents + 1
    int32[S]    tokens of each sequence
    int64[S]    byte offset of each sequence in prefix.bin
    int64[…]    first sequence of each document, then S

The layout is that of Megatron-LM's megatron/core/datasets/indexed_dataset.py. Written here, a document is one sequence.
"""

from __future__ import annotations

import hashlib
import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from sidewinder.errors import CorruptArtifact
from sidewinder.record import Artifact

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
CODES: dict[int, Any] = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
UINT16_VOCABULARY = 65_500  # Megatron's own limit: below it a token takes two bytes.


def token_dtype(vocab_size: int) -> np.dtype:
    """Type of a token: uint16 where the vocabulary fits, else int32."""
    return np.dtype(np.uint16 if vocab_size < UINT16_VOCABULARY else np.int32)


def bin_path(prefix: Path | str) -> Path:
    return Path(f"{prefix}.bin")


def idx_path(prefix: Path | str) -> Path:
    return Path(f"{prefix}.idx")


class IndexedWriter:
    """Writes documents one after the other; both files get their names when the `with` block ends without an error.

    `artifacts` are then the two files, with digests that were taken while writing.

    >>> with IndexedWriter(Path("tokens"), np.uint16) as writer:
    ...     writer.add([17, 4, 2])
    """

    def __init__(self, prefix: Path | str, dtype: Any) -> None:
        self.prefix, self.dtype = Path(prefix), np.dtype(dtype)
        codes = {np.dtype(kind): code for code, kind in CODES.items()}
        if self.dtype not in codes:
            raise ValueError(f"tokens of type {self.dtype} have no code in the format")
        self._code = codes[self.dtype]
        self._sizes = array("i")
        self._digests = [hashlib.sha256(), hashlib.sha256()]
        self.artifacts: list[Artifact] = []

    @property
    def documents(self) -> int:
        return len(self._sizes)

    def add(self, tokens: Any) -> None:
        """Appends one document: a sequence of token ids."""
        values = np.asarray(tokens, dtype=self.dtype)
        self.add_block(values, np.array([len(values)]))

    def add_block(self, tokens: np.ndarray, sizes: np.ndarray) -> None:
        """Appends several documents: their tokens one after the other, and how many each has."""
        content = np.ascontiguousarray(tokens, dtype=self.dtype.newbyteorder("<")).view(np.uint8).data
        self._bin.write(content)
        self._digests[0].update(content)
        self._sizes.frombytes(sizes.astype(np.int32).tobytes())

    def __enter__(self) -> Self:
        self._part = {path: path.with_name(f".{path.name}.part") for path in map(Path, self._paths())}
        self._bin = self._part[bin_path(self.prefix)].open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._bin:
                _sync(self._bin)
            if error is None:
                with self._part[idx_path(self.prefix)].open("wb") as stream:
                    self._write_index(stream)
                    _sync(stream)
                self._name_files()
        finally:
            for part in self._part.values():
                part.unlink(missing_ok=True)

    def _name_files(self) -> None:
        for (path, part), digest, role in zip(self._part.items(), self._digests, ("bin", "idx"), strict=True):
            size_bytes = part.stat().st_size
            part.replace(path)
            self.artifacts.append(Artifact(role, str(path), digest.hexdigest(), size_bytes))

    def _paths(self) -> tuple[Path, Path]:
        return bin_path(self.prefix), idx_path(self.prefix)

    def _write_index(self, stream: IO[bytes]) -> None:
        sizes = np.frombuffer(self._sizes, dtype=np.int32)
        ends = np.cumsum(sizes, dtype=np.int64) * self.dtype.itemsize
        for content in (
            HEADER.pack(MAGIC, VERSION, self._code, len(sizes), len(sizes) + 1),
            sizes.astype("<i4").tobytes(),
            (ends - sizes * np.int64(self.dtype.itemsize)).astype("<i8").tobytes(),
            np.arange(len(sizes) + 1, dtype="<i8").tobytes(),
        ):
            stream.write(content)
            self._digests[1].update(content)


class IndexedReader:
    """Documents of an indexed data set, memory mapped: opening costs the same for ten documents and a billion.

    `len(reader)` documents, `reader[i]` the tokens of one. Raises CorruptArtifact, naming the file, where one is
    missing, truncated, or not of this format.
    """

    def __init__(self, prefix: Path | str) -> None:
        self.prefix = Path(prefix)
        path = idx_path(prefix)
        with _explained(path):
            with path.open("rb") as stream:
                head = stream.read(HEADER.size)
            if len(head) < HEADER.size:
                raise ValueError(f"it ends after {len(head)} bytes, inside its header")
            magic, version, code, sequences, bounds = HEADER.unpack(head)
            if magic != MAGIC or version != VERSION or code not in CODES:
                raise ValueError("it does not begin as an index of version 1 does")
            expected = HEADER.size + 12 * sequences + 8 * bounds
            found = path.stat().st_size
            if found != expected:
                raise ValueError(f"it has {found:,} bytes; its header promises {expected:,}")
            self._map(path, sequences, bounds)
        self.dtype = np.dtype(CODES[code]).newbyteorder("<")
        self._open_tokens()

    def __len__(self) -> int:
        return len(self._first) - 1

    def __getitem__(self, document: int) -> np.ndarray:
        """Tokens of one document, in the file's type. Raises IndexError beyond the last."""
        if not 0 <= document < len(self):
            raise IndexError(f"document {document} of {len(self)} in {self.prefix}")
        start, size = int(self._offsets[document]) // self.dtype.itemsize, int(self.sizes[document])
        return self.tokens[start : start + size]

    def document_at(self, token: int) -> int:
        """The document that a token lies in; tokens are counted from the file's first."""
        # numpy's search would copy the whole array first: it does not begin at a multiple of eight bytes.
        return bisect_right(self._offsets, token * self.dtype.itemsize) - 1

    def start(self, document: int) -> int:
        """First token of a document."""
        return int(self._offsets[document]) // self.dtype.itemsize

    def document_start(self, token: int) -> int:
        """First token of the document that a token lies in."""
        return self.start(self.document_at(token))

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    def _map(self, path: Path, sequences: int, bounds: int) -> None:
        """Maps the three arrays of the index."""
        place = HEADER.size
        self._lengths = _mapped(path, "<i4", place, sequences)
        self._pointers = _mapped(path, "<i8", place + 4 * sequences, sequences)
        self._first = _mapped(path, "<i8", place + 12 * sequences, bounds)
        if bounds < 1 or self._first[0] != 0 or self._first[-1] != sequences:
            raise ValueError("its list of documents does not cover its sequences")

    def _open_tokens(self) -> None:
        path, width = bin_path(self.prefix), self.dtype.itemsize
        with _explained(path):
            expected = int(self._pointers[-1]) + int(self._lengths[-1]) * width if len(self._lengths) else 0
            found = path.stat().st_size
            if found != expected:
                raise ValueError(f"it has {found:,} bytes; its index promises {expected:,}")
            self.tokens: np.ndarray = _mapped(path, self.dtype, 0, expected // width)
        self.sizes, self._offsets = self._lengths, self._pointers
        if len(self._lengths) != len(self):  # Others may write several sequences a document, one after the other.
            bounds = np.append(self._pointers, expected)[self._first]
            self.sizes, self._offsets = np.diff(bounds) // width, bounds[:-1]


def _mapped(path: Path, dtype: Any, offset: int, count: int) -> np.ndarray:
    """A read-only view of part of a file; empty parts cannot be mapped."""
    if not count:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,)).view(np.ndarray)


def _sync(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise CorruptArtifact(
            f"cannot read {path}: {error}", remedy=f"delete {path.parent} and run the study again"
        ) from error
