"""The columns that a document is made of, and what to say where one is missing."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from sidewinder.config.readers import Columns
from sidewinder.errors import DataError

METADATA = {"language_key": "language", "licence_key": "licence", "url_key": "url"}


class WrongColumn(DataError):
    """A source has no column of a name that its reader is told: `key` of the reader has `column`."""

    def __init__(self, path: str, key: str, column: str, columns: list[str], why: str = "is not there") -> None:
        self.key, self.column = key, column
        self.what = f"column {column!r} of {path} {why}; columns: {', '.join(columns)}"
        self.nearest = (get_close_matches(column, columns, n=1, cutoff=0.0) or ["-"])[0]
        super().__init__(self.what, remedy=f"set {key} of the source's reader; the nearest name is {self.nearest!r}")


def extra_columns(config: Columns) -> list[tuple[str, str]]:
    """(column, name in a document's metadata) of the columns that a source has beside text and id."""
    columns = [(getattr(config, key), name) for key, name in METADATA.items()]
    return [(column, name) for column, name in columns if column]


def named_columns(config: Columns) -> list[tuple[str, str]]:
    """(key of the reader, column) of the columns that must be there."""
    return [("text_key", config.text_key), *((key, getattr(config, key)) for key in METADATA if getattr(config, key))]


def given(record: dict[str, Any], extra: list[tuple[str, str]]) -> dict[str, Any]:
    """Metadata of one document; columns without a value are left out."""
    return {name: str(record[column]) for column, name in extra if record.get(column) is not None}
