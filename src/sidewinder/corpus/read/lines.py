"""Lines of a file, or those that begin in a range of its bytes, none of them larger than a maximum in memory.

Lines end at a line feed alone: other characters that Unicode counts as line ends are part of the text.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from sidewinder.corpus.compressed import BUFFER_BYTES, decompressed, is_compressed
from sidewinder.corpus.pieces import Piece
from sidewinder.corpus.read.tally import Tally

BOM = b"\xef\xbb\xbf"
LINE_FEED = 10


def lines(stored: io.RawIOBase, piece: Piece, maximum_bytes: int, tally: Tally) -> Iterator[tuple[int, bytes]]:
    """(place, line with its end) of the lines that begin in a piece.

    The place is the byte at which a line begins, or in compressed files its number from 1. Longer lines than
    `maximum_bytes` are counted as oversized and passed over in constant memory. Where a compressed file breaks off,
    the line in which it does so is not given out.
    """
    stream = decompressed(stored, piece.name)
    numbered = is_compressed(piece.name)
    position = number = 0
    if piece.start:
        stream.seek(piece.start - 1)  # A line that begins at the very start follows a line feed.
        position = piece.start - 1 + _skip_line(stream)
    while piece.end is None or position < piece.end:
        line = stream.readline(maximum_bytes + 1)
        if not line:
            return
        size, number = len(line), number + 1
        if size > maximum_bytes and line[-1] != LINE_FEED:
            del line
            size += _skip_line(stream)
            tally.oversized(size)
        else:
            if position == 0 and line.startswith(BOM):
                line = line.removeprefix(BOM)
            yield number if numbered else position, line
            del line  # While the next one is read, this one need not be there.
        position += size


def line_spans(stored: io.RawIOBase, piece: Piece) -> Iterator[tuple[int, int]]:
    """The bytes that decide which lines a piece has: from the byte before it to the end of its last line."""
    stream = io.BufferedReader(stored, BUFFER_BYTES)
    end = stream.seek(0, io.SEEK_END)
    if piece.end is not None:
        stream.seek(piece.end - 1)
        end = piece.end - 1 + _skip_line(stream)
    stream.detach()  # Else the file would be closed with the buffer.
    yield max(0, piece.start - 1), end


def _skip_line(stream: io.BufferedIOBase) -> int:
    """Passes over the rest of a line; returns its bytes."""
    size = 0
    while part := stream.readline(BUFFER_BYTES):
        size += len(part)
        if part[-1] == LINE_FEED:
            break
    return size
