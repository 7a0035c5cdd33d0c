"""Files that torch.save wrote: a zip of one pickle and a record for each storage, stored as they are.

The file is mapped into memory, so that a tensor costs nothing until it is read.
"""

from __future__ import annotations

import mmap
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidewinder.errors import CheckpointError
from sidewinder.imports.megatron.pickled import StoredTensor, read_pickle

DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "HalfStorage": torch.float16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
}
"""Storages that can hold weights."""
ZIP_START, LOCAL_HEADER_BYTES = b"PK\x03\x04", 30
LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch.save began its files before version 1.6."""
LFS_START = b"version https://git-lfs"
REFETCH = "fetch the file again, and compare its size with the source's"


class Archive:
    """One file: `content` is what its pickle describes; `read` gives the tensors in it."""

    def __init__(self, path: Path) -> None:
        """Opens and reads the pickle. Raises CheckpointError where the file is missing, foreign or truncated."""
        self.path = path
        try:
            with path.open("rb") as stream:
                _check_start(path, stream.read(64))
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            with zipfile.ZipFile(path) as archive:
                self._records = {info.filename: info for info in archive.infolist()}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"cannot read {path}: {error}; it is truncated or damaged", remedy=REFETCH) from error
        pickles = [name for name in self._records if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(f"{path} is a zip file, but not one that torch.save wrote", remedy=REFETCH)
        self._prefix = pickles[0].removesuffix("data.pkl")
        self._check_byte_order()
        self.content: Any = read_pickle(self._map[slice(*self._extent("data.pkl"))], path)

    def problem(self, tensor: StoredTensor) -> str | None:
        """Why a tensor cannot be read, or None where it can."""
        storage, name = tensor.storage, f"data/{tensor.storage.key}"
        if storage.kind not in DTYPES:
            return f"{storage.kind} cannot hold weights"
        if self._prefix + name not in self._records:
            return f"record {name} is missing"
        try:
            start, end = self._extent(name)
        except CheckpointError as error:
            return str(error).splitlines()[0]
        wanted = storage.elements * DTYPES[storage.kind].itemsize
        if end - start != wanted:
            return f"record {name} has {end - start:,} bytes instead of {wanted:,}"
        if tensor.end > storage.elements:
            return f"it reaches element {tensor.end:,} of a storage of {storage.elements:,}"
        return None

    def read(self, tensor: StoredTensor) -> Tensor:
        """A tensor without `problem`, as a view of the file: not to be written to."""
        storage = tensor.storage
        if not storage.elements:
            return torch.empty(tensor.shape, dtype=DTYPES[storage.kind])
        start, _ = self._extent(f"data/{storage.key}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            flat = torch.frombuffer(self._map, dtype=DTYPES[storage.kind], count=storage.elements, offset=start)
        return flat.as_strided(tensor.shape, tensor.strides, tensor.offset)

    def _extent(self, name: str) -> tuple[int, int]:
        """Where the bytes of a record begin and end in the file."""
        info = self._records[self._prefix + name]
        header = self._map[info.header_offset : info.header_offset + LOCAL_HEADER_BYTES]
        if info.compress_type != zipfile.ZIP_STORED or header[:4] != ZIP_START or len(header) < LOCAL_HEADER_BYTES:
            raise CheckpointError(f"record {name} of {self.path} is compressed or damaged", remedy=REFETCH)
        start = info.header_offset + LOCAL_HEADER_BYTES + sum(struct.unpack("<HH", header[26:30]))
        end = start + info.file_size
        if end > len(self._map):
            raise CheckpointError(f"record {name} of {self.path} goes on behind the end of the file", remedy=REFETCH)
        return start, end

    def _check_byte_order(self) -> None:
        if self._prefix + "byteorder" in self._records:
            order = self._map[slice(*self._extent("byteorder"))]
            if order != b"little":
                raise CheckpointError(f"{self.path} has {order!r} byte order", remedy="save it on a little-endian CPU")


def _check_start(path: Path, start: bytes) -> None:
    """Tells foreign files by their first bytes. Raises CheckpointError that says what they are."""
    if start.startswith(ZIP_START):
        return
    if start.startswith(LFS_START):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself", remedy="run `git lfs pull` there")
    if start.startswith(LEGACY_START):
        raise CheckpointError(
            f"{path} has the format of torch.save before PyTorch 1.6, which is not read",
            remedy="load and save it again with a newer PyTorch, if you trust it",
        )
    what = "is empty" if not start else f"does not begin as a file of torch.save does, but with {start[:8]!r}"
    raise CheckpointError(f"{path} {what}", remedy=REFETCH)
