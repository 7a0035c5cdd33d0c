"""Arrow streams, as `save_to_disk` of Hugging Face's datasets writes them: the record batches that begin in a piece.

A local file is walked through a memory map, which touches the batches' headers alone; the batches that are wanted are
then read into this process's own memory, so that its size does not grow with the file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
from datatrove.data import Document

from sidewinder.config.readers import Columns
from sidewinder.corpus.pieces import Piece
from sidewinder.corpus.read.parquet import owns
from sidewinder.corpus.read.rows import batch_documents, check_columns, wanted_columns
from sidewinder.corpus.read.tally import Damaged, Tally
from sidewinder.corpus.storage import is_remote
from sidewinder.errors import DataError

FILE_MAGIC = b"ARROW1"


def read_arrow(stored: io.RawIOBase, piece: Piece, config: Columns, tally: Tally) -> Iterator[Document]:
    """Documents of the piece's batches. Raises DataError where a column is missing, Damaged where bytes are."""
    own = pa.PythonFile(io.BufferedReader(stored), mode="r")
    source = own if is_remote(piece.path) else pa.memory_map(piece.path)
    row, begin = 0, piece.start
    try:
        schema = _schema(source, piece.path)
        check_columns(schema, config, piece.path)
        columns = wanted_columns(schema, config)
        for begin, _, batch in _walk(source, schema):
            rows = batch.num_rows
            if owns(piece, begin):
                if source is not own:
                    own.seek(begin)
                    batch = pa.ipc.read_record_batch(pa.ipc.read_message(own), schema)
                yield from batch_documents(batch.select(columns), row, piece, config, tally)
            row += rows
    except (OSError, ValueError, EOFError) as error:
        end = piece.start + piece.size_bytes
        if begin < end:  # Damage before or behind the piece is counted by the piece that it lies in.
            raise Damaged(f"row {row:,}: {error}", end - max(begin, piece.start)) from error


def arrow_spans(stored: io.RawIOBase, piece: Piece) -> Iterator[tuple[int, int]]:
    """The schema's bytes and those of the piece's batches; the whole file where it cannot be parsed."""
    try:
        with pa.memory_map(piece.path) as source:
            schema = _schema(source, piece.path)
            found = [(0, source.tell())]
            found += [(begin, end) for begin, end, _ in _walk(source, schema) if owns(piece, begin)]
    except (OSError, ValueError, EOFError):
        found = [(0, stored.seek(0, io.SEEK_END))]
    yield from found


def _schema(source: pa.NativeFile, path: str) -> pa.Schema:
    """The stream's schema, which comes first. Raises DataError for Arrow's file format and for dictionaries."""
    if source.read(len(FILE_MAGIC)) == FILE_MAGIC:
        raise DataError(f"{path} is in Arrow's file format", remedy="save it with save_to_disk, or as Parquet")
    source.seek(0)
    schema = pa.ipc.read_schema(source)
    if any(pa.types.is_dictionary(kind) for kind in schema.types):
        raise DataError(f"{path} has dictionary columns", remedy="save it as Parquet")
    return schema


def _walk(source: pa.NativeFile, schema: pa.Schema) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """(first byte, byte after the last, batch) of a stream. Raises EOFError where it has no end mark."""
    while True:
        begin = source.tell()
        try:
            message = pa.ipc.read_message(source)
        except EOFError:
            if source.tell() == begin:
                raise EOFError("the file ends without the end mark of an Arrow stream") from None
            return
        yield begin, source.tell(), pa.ipc.read_record_batch(message, schema)
