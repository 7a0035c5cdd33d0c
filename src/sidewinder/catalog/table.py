"""An answer of the catalog as a table, and its renderings: text for a terminal, CSV, JSON, Markdown."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sidewinder.catalog.errors import CatalogError

DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
DIGEST_DIGITS, CELL_CHARACTERS = 12, 100


@dataclass(frozen=True)
class Table:
    """Columns and rows as DuckDB gave them; `title` says which named query they come from."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    title: str = ""

    def records(self) -> list[dict[str, Any]]:
        """Rows by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def render(table: Table, form: str = "table", *, width: int | None = None) -> str:
    """The table as text, without a last line end.

    `form` is table, csv, json or markdown; `width` (columns of the terminal) folds long cells of the first, None lets
    lines be as long as they are. Raises CatalogError for another `form`.
    """
    if form not in FORMS:
        raise CatalogError(f"unknown format {form!r}", remedy=f"use one of {', '.join(FORMS)}")
    return FORMS[form](table, width).rstrip("\n")


def shown(value: Any) -> str:
    """A value as a person reads it: six significant digits, seconds for times, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return str(value)


def _terminal(table: Table, width: int | None) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(table.columns):
        drawn.add_column(Text(name), justify="right" if _is_numeric(table, place) else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(_short(shown(value))) for value in row))
    natural = Console(width=100_000).measure(drawn).maximum
    stream = io.StringIO()
    Console(file=stream, width=min(width or natural, natural), no_color=True).print(drawn)
    lines = [line.rstrip() for line in stream.getvalue().strip("\n").splitlines()]
    count = f"({len(table.rows):,} row{'' if len(table.rows) == 1 else 's'})"
    return "\n".join([*([table.title, ""] if table.title else []), *lines, count])


def _short(text: str) -> str:
    """What fits on a screen: the first digits of a digest, the beginning of a long text. Other forms give all."""
    if DIGEST.fullmatch(text):
        return text[:DIGEST_DIGITS]
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"


def _is_numeric(table: Table, place: int) -> bool:
    values = [row[place] for row in table.rows if row[place] is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _csv(table: Table, width: int | None) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(["" if value is None else _plain(value) for value in row] for row in table.rows)
    return stream.getvalue()


def _json(table: Table, width: int | None) -> str:
    rows = [{key: _plain(value, json_numbers=True) for key, value in row.items()} for row in table.records()]
    return json.dumps(rows, indent=1, ensure_ascii=False, default=str)


def _plain(value: Any, *, json_numbers: bool = False) -> Any:
    """Times as ISO 8601; where JSON has no such number, null."""
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if json_numbers and isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _markdown(table: Table, width: int | None) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rules = ["--:" if _is_numeric(table, place) else "---" for place in range(len(table.columns))]
    body = [line([shown(value) for value in row]) for row in table.rows]
    return "\n".join([line(table.columns), line(rules), *body])


FORMS: dict[str, Callable[[Table, int | None], str]] = {
    "table": _terminal,
    "csv": _csv,
    "json": _json,
    "markdown": _markdown,
}
