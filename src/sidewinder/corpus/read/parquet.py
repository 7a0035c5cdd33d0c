"""Parquet: the row groups that begin in a piece. A row group begins at the first byte of any of its columns."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document

from sidewinder.config.readers import Columns
from sidewinder.corpus.pieces import Piece
from sidewinder.corpus.read.rows import batch_documents, check_columns, wanted_columns
from sidewinder.corpus.read.tally import Damaged, Tally
from sidewinder.errors import DataError

BATCH_BYTES = 16 * 2**20  # Text in memory at a time, about.
MOST_ROWS = 4096
BUFFER_BYTES = 2**20
FOOTER_END_BYTES = 8  # Length of the footer, and the magic bytes.


def read_parquet(stored: io.RawIOBase, piece: Piece, config: Columns, tally: Tally) -> Iterator[Document]:
    """Documents of the piece's row groups. Raises DataError where a column is missing, Damaged where bytes are."""
    size = piece.start + piece.size_bytes
    try:
        table = pq.ParquetFile(stored, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (OSError, ValueError) as error:
        raise Damaged(str(error), piece.size_bytes) from error
    check_columns(table.schema_arrow, config, piece.path)
    columns = wanted_columns(table.schema_arrow, config)
    row = 0
    for group, (begin, _) in enumerate(group_spans(table.metadata)):
        rows = table.metadata.row_group(group).num_rows
        if owns(piece, begin):
            yield from _group_documents(table, group, columns, row, piece, config, tally, left_bytes=size - begin)
        row += rows


def _group_documents(
    table: pq.ParquetFile,
    group: int,
    columns: list[str],
    row: int,
    piece: Piece,
    config: Columns,
    tally: Tally,
    left_bytes: int,
) -> Iterator[Document]:
    """Documents of one row group, whose first row has the number `row`."""
    metadata = table.metadata.row_group(group)
    rows = max(1, metadata.num_rows)
    step = min(MOST_ROWS, max(1, BATCH_BYTES * rows // max(1, metadata.total_byte_size)))
    try:
        for batch in table.iter_batches(step, row_groups=[group], columns=columns, use_threads=False):
            yield from batch_documents(batch, row, piece, config, tally)
            row += batch.num_rows
    except pa.ArrowNotImplementedError as error:
        raise DataError(f"cannot read {piece.path}: {error}", remedy="write it with another codec or type") from error
    except (OSError, ValueError) as error:
        raise Damaged(f"row {row:,}: {error}", left_bytes) from error


def parquet_spans(stored: io.RawIOBase, piece: Piece) -> Iterator[tuple[int, int]]:
    """The bytes of the piece's row groups, and the footer; the whole file where it cannot be parsed."""
    size = stored.seek(0, io.SEEK_END)
    try:
        metadata = pq.ParquetFile(stored).metadata
    except (OSError, ValueError):
        yield 0, size
        return
    yield size - FOOTER_END_BYTES - metadata.serialized_size, size
    yield from (span for span in group_spans(metadata) if owns(piece, span[0]))


def group_spans(metadata: Any) -> list[tuple[int, int]]:
    """(first byte, byte after the last) of every row group's columns."""
    spans = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        columns = [group.column(column) for column in range(group.num_columns)]
        begins = [column.dictionary_page_offset or column.data_page_offset for column in columns]
        ends = [begin + column.total_compressed_size for begin, column in zip(begins, columns, strict=True)]
        spans.append((min(begins, default=0), max(ends, default=0)))
    return spans


def owns(piece: Piece, begin: int) -> bool:
    """Whether what begins at a byte belongs to a piece."""
    return piece.start <= begin and (piece.end is None or begin < piece.end)
