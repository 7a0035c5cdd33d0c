"""JSON lines. A line that is cut off, not UTF-8, or without text is counted and skipped; NUL characters are kept."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import orjson
from datatrove.data import Document

from sidewinder.config.readers import Columns
from sidewinder.corpus.compressed import is_compressed
from sidewinder.corpus.pieces import Piece
from sidewinder.corpus.read.columns import extra_columns, given
from sidewinder.corpus.read.lines import lines
from sidewinder.corpus.read.tally import Tally


def read_jsonl(stored: io.RawIOBase, piece: Piece, config: Columns, tally: Tally) -> Iterator[Document]:
    """Documents of the lines that begin in a piece."""
    text_key, id_key, name = config.text_key, config.id_key, piece.name
    unit = "line" if is_compressed(name) else "byte"
    extra = extra_columns(config)
    for place, line in lines(stored, piece, config.maximum_bytes, tally):
        size = len(line)
        try:
            record = orjson.loads(line)
            text = record[text_key]
        except orjson.JSONDecodeError as error:
            if not line.isspace():
                tally.bad(name, place, unit, str(error), size)
            continue
        except (KeyError, TypeError):
            tally.bad(name, place, unit, _without_text(record, text_key), size)
            continue
        del line
        if text.__class__ is not str:
            tally.bad(name, place, unit, _without_text(record, text_key), size)
        elif not text:
            tally.empty()
        else:
            identifier = record.get(id_key)
            metadata = {"file": name, "index": place}
            if extra:
                metadata |= given(record, extra)
            del record[text_key], record
            yield Document(text, f"{name}:{place}" if identifier is None else str(identifier), metadata=metadata)
            del text


def _without_text(record: Any, text_key: str) -> str:
    if not isinstance(record, dict):
        return f"no text under {text_key!r}; found: {type(record).__name__}"
    if text_key in record:
        return f"no text under {text_key!r}: it is {type(record[text_key]).__name__}"
    return f"no text under {text_key!r}; found: {', '.join(record)}"
