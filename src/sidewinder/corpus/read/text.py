"""Plain text: one document a file, or one a line. What is not UTF-8 is counted and skipped."""

from __future__ import annotations

import io
from collections.abc import Iterator

from datatrove.data import Document

from sidewinder.config.readers import TextReader
from sidewinder.corpus.compressed import decompressed, is_compressed, skip_rest
from sidewinder.corpus.pieces import Piece
from sidewinder.corpus.read.lines import BOM, lines
from sidewinder.corpus.read.tally import Tally


def read_text(stored: io.RawIOBase, piece: Piece, config: TextReader, tally: Tally) -> Iterator[Document]:
    """The one document of a file; larger ones than the maximum are passed over in constant memory."""
    stream = decompressed(stored, piece.name)
    content = stream.read(config.maximum_bytes + 1)
    if len(content) > config.maximum_bytes:
        size = len(content)
        del content
        tally.oversized(size + skip_rest(stream))
        return
    yield from _document(content.removeprefix(BOM), piece.name, 0, "", tally)


def read_lines(stored: io.RawIOBase, piece: Piece, config: TextReader, tally: Tally) -> Iterator[Document]:
    """Documents of the lines that begin in a piece; an empty line is an empty document."""
    unit = "line" if is_compressed(piece.name) else "byte"
    for place, line in lines(stored, piece, config.maximum_bytes, tally):
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        yield from _document(content, piece.name, place, unit, tally)


def _document(content: bytes, name: str, place: int, unit: str, tally: Tally) -> Iterator[Document]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        tally.bad(name, place, unit, str(error), len(content))
        return
    if text:
        yield Document(text, f"{name}:{place}" if unit else name, metadata={"file": name, "index": place})
    else:
        tally.empty()
