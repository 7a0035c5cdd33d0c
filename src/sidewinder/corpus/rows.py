"""Arrays on disk that grow a row at a time (.npy), and reading them in pieces of bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from sidewinder.errors import CorruptArtifact

# A document in the order of its shard: 16 bytes that stand for its text, and the length of that in UTF-8.
KEY = np.dtype([("hash", "V16"), ("bytes", "<i8")])
BUFFERED_ROWS = 16_384


class Rows:
    """Writes rows of a structured or plain type beside `path`; on leaving without an error the file gets its name."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype, self.count = path, dtype, 0
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._rows: list[Any] = []

    def append(self, row: Any) -> None:
        """A tuple for a structured type, else a number."""
        self._rows.append(row)
        self.count += 1
        if len(self._rows) == BUFFERED_ROWS:
            self._flush()

    def __enter__(self) -> Self:
        self._stream = self._part.open("wb")
        self._header_bytes = write_header(self._stream, self.dtype, (0,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._stream:
                if kind is None:
                    self._finish()
            if kind is None:
                self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._flush()
        self._stream.seek(0)
        # numpy pads a header so that its length does not change while the first axis grows.
        assert write_header(self._stream, self.dtype, (self.count,)) == self._header_bytes
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _flush(self) -> None:
        np.array(self._rows, self.dtype).tofile(self._stream)
        self._rows.clear()


def write_header(stream: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Writes the header of an .npy file; its length in bytes."""
    start = stream.tell()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    stream.flush()  # `tofile` writes beside the stream's buffer.
    return stream.tell() - start


def save(path: Path, array: np.ndarray) -> None:
    """Writes an array beside `path`, flushes it to disk, and renames."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def shape_of(path: Path, dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Shape of an .npy file. Raises CorruptArtifact where it is missing, truncated or of another type."""
    return _layout(path, dtype)[0]


def pieces(path: Path, dtype: np.dtype[Any], rows: int, *, part: int | None = None) -> Iterator[np.ndarray]:
    """The rows of an .npy file, at most `rows` at a time; of a two-dimensional one, of its row number `part`.

    Raises CorruptArtifact as `shape_of`.
    """
    shape, offset = _layout(path, dtype)
    length = shape[-1]
    start = offset + (part or 0) * length * dtype.itemsize
    for first in range(0, length, rows):
        count = min(rows, length - first)
        found = np.fromfile(path, dtype, count, offset=start + first * dtype.itemsize)
        if len(found) != count:
            raise _corrupt(path, f"row {first + len(found):,} is missing")
        yield found


def _layout(path: Path, dtype: np.dtype[Any]) -> tuple[tuple[int, ...], int]:
    """Shape, and where the data begins."""
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise ValueError(f"version {version} of the format")
            shape, _, found = np.lib.format.read_array_header_1_0(stream)
            offset, size_bytes = stream.tell(), os.fstat(stream.fileno()).st_size
    except (OSError, ValueError) as error:
        raise _corrupt(path, str(error)) from error
    wanted = offset + int(np.prod(shape)) * dtype.itemsize
    if found != dtype or size_bytes != wanted:
        raise _corrupt(path, f"{size_bytes:,} bytes of {found}, wanted {wanted:,} of {dtype}")
    return shape, offset


def _corrupt(path: Path, what: str) -> CorruptArtifact:
    return CorruptArtifact(f"cannot read {path}: {what}", remedy=f"delete {path.parent} and run the study again")
