"""A look at a source's first file before any work: are the named columns there, is every shard given something."""

from __future__ import annotations

import orjson

from sidewinder.config.readers import Columns, FilesReader, Reader, WarcReader
from sidewinder.corpus.compressed import decompressed
from sidewinder.corpus.pieces import Piece, divide, listing
from sidewinder.corpus.read.columns import WrongColumn
from sidewinder.corpus.read.reader import DAMAGE
from sidewinder.corpus.storage import Entry, Storage, Watched
from sidewinder.errors import DataError

PEEKED_LINES = 20
PEEKED_BYTES = 2**20
MOST_CUT_FILES = 64  # Opening the footer of each takes a moment where they are remote.


def peek(reader: FilesReader, entry: Entry) -> None:
    """Raises WrongColumn where a file lacks a column, DataError where it cannot be reached or its text not be had.

    A damaged file says nothing here: damage is counted when it is read.
    """
    if isinstance(reader, WarcReader) and reader.text == "html":
        from sidewinder.corpus.read.warc import extractor

        extractor()
    if not isinstance(reader, Columns):
        return
    with Storage(reader).open(entry.path) as stored:
        try:
            _columns(reader, entry, stored)
        except DAMAGE:
            return


def empty_shards(reader: Reader, shards: int) -> list[int]:
    """Shards of Parquet files in which no row group begins, though their bytes were given out."""
    pieces = divide(reader, shards)
    if not isinstance(reader, Columns) or not all(entry.name.endswith(".parquet") for entry in listing(reader)):
        return []
    cut = {piece.path for shard in pieces for piece in shard if not piece.whole}
    if len(cut) > MOST_CUT_FILES:
        return []
    begins = {path: _group_begins(Storage(reader), path) for path in sorted(cut)}
    return [number for number, shard in enumerate(pieces) if not any(_has_rows(piece, begins) for piece in shard)]


def _columns(reader: Columns, entry: Entry, stored: Watched) -> None:
    if entry.name.endswith(".parquet"):
        import pyarrow.parquet as pq

        from sidewinder.corpus.read.rows import check_columns

        check_columns(pq.ParquetFile(stored).schema_arrow, reader, entry.path)
    elif entry.name.endswith(".arrow"):
        import pyarrow as pa

        from sidewinder.corpus.read.rows import check_columns

        check_columns(pa.ipc.read_schema(pa.PythonFile(stored, mode="r")), reader, entry.path)
    else:
        _keys(reader, entry, stored)


def _keys(reader: Columns, entry: Entry, stored: Watched) -> None:
    """Raises WrongColumn where none of the first JSON lines has a text."""
    stream = decompressed(stored, entry.name)
    found: dict[str, None] = {}
    for _ in range(PEEKED_LINES):
        line = stream.readline(PEEKED_BYTES)
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict):
            found |= dict.fromkeys(record)
    if found and reader.text_key not in found:
        raise WrongColumn(entry.path, "text_key", reader.text_key, list(found))


def _group_begins(storage: Storage, path: str) -> list[int]:
    import pyarrow.parquet as pq

    from sidewinder.corpus.read.parquet import group_spans

    with storage.open(path) as stored:
        try:
            return [begin for begin, _ in group_spans(pq.ParquetFile(stored).metadata)]
        except DAMAGE:
            raise DataError(f"{path} is damaged, so it cannot be cut into shards", remedy="mend or remove it") from None


def _has_rows(piece: Piece, begins: dict[str, list[int]]) -> bool:
    from sidewinder.corpus.read.parquet import owns

    return piece.whole or any(owns(piece, begin) for begin in begins[piece.path])
