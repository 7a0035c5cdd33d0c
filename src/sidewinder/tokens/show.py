"""Prints what `inspect` finds, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

SHADES = ("on grey23", "on grey35")  # Neighbouring tokens differ, so that their borders show.
SPENT_COLUMNS = 50  # Of a line, on the numbers of a document.
MEANINGS = {True: "as recorded", None: "nothing recorded", False: "differs"}


def show(found: dict[str, Any], console: Console) -> None:
    """Prints each part of `sidewinder tokens inspect --json` as a table or a text."""
    for entry in ([found["at"]] if "at" in found else []) + found.get("read", []):
        _show_tokens(entry, console)
    if "documents" in found:
        _show_documents(found["documents"], console)
    if "shards" in found:
        console.print(_shards(found["shards"]))
    for entry in found.get("verified", []):
        console.print(f"{MEANINGS[entry['equal']]:<17}{entry['sha256'][:12]}  {entry['file']}", highlight=False)


def _shards(shards: list[dict[str, Any]]) -> Table:
    table = Table("shard", box=None)
    for head in ("documents", "tokens", "longest", "type", "MB"):
        table.add_column(head, justify="right")
    for row in shards:
        counts = (f"{row[key]:,}" for key in ("documents", "tokens", "longest_document_tokens"))
        table.add_row(row["shard"], *counts, row["dtype"], f"{row['bytes'] / 1e6:,.1f}")
    return table


def _show_documents(documents: list[dict[str, Any]], console: Console) -> None:
    table = Table("shard", box=None, show_edge=False)
    for head in ("document", "position", "tokens"):
        table.add_column(head, justify="right")
    table.add_column("begins", no_wrap=True)
    for row in documents:
        begins = Text(_visible(row["text"]) if "text" in row else " ".join(map(str, row["ids"])))
        begins.truncate(max(20, console.width - SPENT_COLUMNS - len(row["shard"])), overflow="ellipsis")
        table.add_row(
            row["shard"], f"{row['document']:,}", f"{row['position_in_shard']:,}", f"{row['tokens']:,}", begins
        )
    console.print(table)


def _show_tokens(entry: dict[str, Any], console: Console) -> None:
    where = f"{entry['shard']}, document {entry['document']:,}"
    if "position" in entry:
        where = f"position {entry['position']:,}: {where}, token {entry['position_in_document']:,} of it"
    console.print(where, style="bold", highlight=False)
    console.print(" ".join(map(str, entry["ids"])), style="dim", highlight=False)
    if "pieces" in entry:
        text = Text()
        for turn, piece in enumerate(entry["pieces"]):
            text.append(_visible(piece) + ("\n" if piece.endswith("\n") else ""), SHADES[turn % 2])
        console.print(text)


def _visible(text: str) -> str:
    """Text on one line, with controls written as Python writes them and the newline as ⏎."""
    text = text.replace("\n", "\u23ce")
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
