"""Which reader a file takes, by the source's kind and, in a data set folder, by the file's name."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from datatrove.data import Document

from sidewinder.config.readers import FilesReader, JsonlReader, ParquetReader, TextReader, WarcReader
from sidewinder.corpus.pieces import Piece

Format = Callable[..., Iterator[Document]]


def format_of(config: FilesReader, name: str) -> Format:
    """The function `read(stored, piece, config, tally)` for a file: it yields the documents that begin in the piece."""
    if isinstance(config, WarcReader):
        from sidewinder.corpus.read.warc import read_warc

        return read_warc
    if isinstance(config, TextReader):
        from sidewinder.corpus.read.text import read_lines, read_text

        return read_text if config.documents == "files" else read_lines
    if isinstance(config, ParquetReader) or name.endswith(".parquet"):
        from sidewinder.corpus.read.parquet import read_parquet

        return read_parquet
    if not isinstance(config, JsonlReader) and name.endswith(".arrow"):
        from sidewinder.corpus.read.arrow import read_arrow

        return read_arrow
    from sidewinder.corpus.read.jsonl import read_jsonl

    return read_jsonl


def spans(stored: io.RawIOBase, piece: Piece) -> Iterator[tuple[int, int]]:
    """Byte ranges of a file that decide what a part of it holds, for its digest."""
    if piece.name.endswith(".parquet"):
        from sidewinder.corpus.read.parquet import parquet_spans

        return parquet_spans(stored, piece)
    if piece.name.endswith(".arrow"):
        from sidewinder.corpus.read.arrow import arrow_spans

        return arrow_spans(stored, piece)
    from sidewinder.corpus.read.lines import line_spans

    return line_spans(stored, piece)
