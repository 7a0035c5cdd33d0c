"""A datatrove reader over the pieces of a shard. What cannot be read is counted and named, and reading goes on.

Two kinds of failure are kept apart. Damage in a file (a broken line, a corrupt gzip member, a truncated Parquet file)
is counted: what could be read before it is kept, the rest of that file counts as one unreadable document with the
stored bytes from the damaged block on, and the next file is read. Failure of storage (a file that is gone or was
replaced, a lost network), and a column that does not exist, stop the reader with a DataError: text would be missing
for no reason in the text.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from isal import isal_zlib

import sidewinder.corpus.quiet  # noqa: F401
from sidewinder.config.corpus import Source
from sidewinder.config.readers import FilesReader, PackagesReader
from sidewinder.corpus.pieces import Piece
from sidewinder.corpus.read.formats import format_of
from sidewinder.corpus.read.packages import PackageFormat
from sidewinder.corpus.read.tally import Damaged, Place, Tally
from sidewinder.corpus.storage import Storage
from sidewinder.errors import DataError

# What decompressors and parsers raise at damage (bz2: OSError); storage's own failures are DataErrors already.
DAMAGE = cast(
    tuple[type[BaseException], ...],
    (EOFError, OSError, ValueError, zlib.error, isal_zlib.IsalError, zstandard.ZstdError, lzma.LZMAError, Damaged),
)
REASONS = ("bad", "empty", "oversized")
"""Why a reader drops a document: the statistics are `<reason>_documents` and `<reason>_bytes`."""


class Reader(PipelineStep):
    """Yields the documents of some pieces of a source, in order.

    A document's metadata say `file` and `index` (the byte at which its line begins where the file can be cut, else
    its number), which do not depend on how the source was cut, and `language`, `licence` and `url` where the source
    has such columns. Statistics, added once at the end of a run: `read_documents`, `read_bytes` (UTF-8 bytes of text)
    and those of REASONS. `named` holds the first unreadable places.
    """

    name, type = "sidewinder", "reader"

    def __init__(self, config: Source, pieces: list[Piece]) -> None:
        super().__init__()
        self.config, self.pieces = config.reader, pieces
        self.named: list[Place] = []

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Reads all pieces. Raises DataError where storage fails, a file has changed, or a column is not there."""
        if data:
            yield from data
        tally = Tally()
        self.named = tally.named
        documents = size_bytes = 0
        try:
            for document in self._documents(tally):
                text = document.text
                documents += 1
                size_bytes += len(text) if text.isascii() else len(text.encode())
                del text
                yield document
                del document  # The next one may be large.
        finally:
            tally.counts.update(read_documents=documents, read_bytes=size_bytes)
            for label, value in tally.counts.items():
                self.stat_update(label, value=value)

    def _documents(self, tally: Tally) -> Iterator[Document]:
        if isinstance(self.config, PackagesReader):
            yield from PackageFormat(self.config, tally).read(self.pieces)
            return
        storage = Storage(self.config)
        for piece in self.pieces:
            verify(storage, piece)
            yield from _until_damage(storage, piece, self.config, tally)
            verify(storage, piece)


def _until_damage(storage: Storage, piece: Piece, config: FilesReader, tally: Tally) -> Iterator[Document]:
    """Documents of a piece; where the file turns out to be damaged, the rest is counted and the piece ends."""
    read: Callable[..., Iterator[Document]] = format_of(config, piece.name)
    with storage.open(piece.path) as stored:
        try:
            yield from read(stored, piece, config, tally)
        except DAMAGE as error:
            left = error.left_bytes if isinstance(error, Damaged) else piece.start + piece.size_bytes - stored.last
            tally.bad(piece.name, 0, "", f"unreadable from here on: {str(error) or type(error).__name__}", left)


def verify(storage: Storage, piece: Piece) -> None:
    """Raises DataError where a file is not the one that was listed, and counted."""
    if not piece.mark:
        return
    entry = storage.entry(piece.path, piece.name)
    if entry is None or entry.mark != piece.mark:
        what = "is gone" if entry is None else "has changed"
        raise DataError(
            f"{piece.path} {what} since it was counted",
            remedy="let nothing write to the sources while a study reads them, then run the study again",
        )
