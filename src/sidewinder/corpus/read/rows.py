"""Documents out of Arrow columns, whichever file they came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from datatrove.data import Document

from sidewinder.config.readers import Columns
from sidewinder.corpus.read.columns import WrongColumn, extra_columns, named_columns
from sidewinder.corpus.read.tally import Tally

if TYPE_CHECKING:
    from sidewinder.corpus.pieces import Piece


def check_columns(schema: pa.Schema, config: Columns, path: str) -> None:
    """Raises WrongColumn, with the columns there are, where a named one is missing or the text is no text."""
    columns = schema.names
    for key, column in named_columns(config):
        if column not in columns:
            raise WrongColumn(path, key, column, columns)
    kind = schema.field(config.text_key).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    if not any(getattr(pa.types, f"is_{test}")(value) for test in tests):
        raise WrongColumn(path, "text_key", config.text_key, columns, f"is {kind}, not text")


def wanted_columns(schema: pa.Schema, config: Columns) -> list[str]:
    """Columns to read: text, and those of id and metadata that exist."""
    named = {config.text_key, config.id_key, *(column for column, _ in extra_columns(config))}
    return [name for name in schema.names if name in named]


def batch_documents(
    batch: pa.RecordBatch, first: int, piece: Piece, config: Columns, tally: Tally
) -> Iterator[Document]:
    """Documents of a batch whose first row has the number `first` in its file.

    A value that is null or not UTF-8 is counted and skipped, a larger one than the maximum dropped as oversized.
    """
    column = batch.column(config.text_key)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    column = column.cast(pa.large_binary())
    ids = batch.column(config.id_key).to_pylist() if config.id_key in batch.schema.names else None
    extra = [(name, batch.column(key).to_pylist()) for key, name in extra_columns(config)]
    lengths = pc.binary_length(column)
    # A document that is too large never becomes a Python object.
    fits = (pc.max(lengths).as_py() or 0) <= config.maximum_bytes
    texts: list[Any] = column.to_pylist() if fits else []
    for row in range(len(column)):
        size = 0 if fits else lengths[row].as_py() or 0
        if size > config.maximum_bytes:
            tally.oversized(size)
            continue
        text = _text(texts[row] if fits else column[row].as_py(), first + row, piece.name, config, tally)
        if text:
            metadata = {"file": piece.name, "index": first + row}
            metadata |= {name: str(values[row]) for name, values in extra if values[row] is not None}
            identifier = ids[row] if ids else None
            name = f"{piece.name}:{first + row}" if identifier is None else str(identifier)
            yield Document(text, name, metadata=metadata)


def _text(value: bytes | None, row: int, file: str, config: Columns, tally: Tally) -> str | None:
    if value is None:
        tally.bad(file, row, "row", f"no text under {config.text_key!r}", 0)
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        tally.bad(file, row, "row", str(error), len(value))
        return None
    if not text:
        tally.empty()
    return text
