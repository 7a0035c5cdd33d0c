"""The catalog file: built from results, beside its final place, and renamed, so that readers never wait or see half."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import duckdb

from sidewinder.catalog.errors import CatalogError
from sidewinder.catalog.ingest import ingest
from sidewinder.record import exclusive

# DuckDB 2 would mark its files as readable by DuckDB 2 alone; this keeps the packaged command line client useful.
STORAGE = "v1.4.0"


def build_catalog(results: Path, database: Path, current: Sequence[Path] | None = None) -> list[tuple[str, str]]:
    """Rebuilds the catalog of a results folder; returns the (path, message) of what had to be left out.

    `current` lists the records that the study asks for as it is configured now: everything else stays in the catalog
    with `current` = false. None takes everything as current. Equal results give equal tables in equal order. Raises
    CatalogError where the file cannot be written; an existing catalog is then left as it was.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    part = database.with_name(f".{database.name}.part")
    with exclusive(database.with_name(f".{database.name}.lock")):
        _remove(part)
        try:
            warnings = _build(part, results, current)
            part.replace(database)
        except (duckdb.OperationalError, duckdb.FatalException, OSError) as error:
            raise CatalogError(
                f"cannot write {database}: {error}",
                remedy="make room on the disk, or the folder writable, and try again",
            ) from error
        finally:
            _remove(part)
    for path, message in warnings:
        print(f"warning: {path} {message}", file=sys.stderr)
    return warnings


def _build(part: Path, results: Path, current: Sequence[Path] | None) -> list[tuple[str, str]]:
    with duckdb.connect(str(part), config={"storage_compatibility_version": STORAGE}) as connection:
        connection.begin()
        warnings = ingest(connection, results, current)
        connection.commit()
        connection.execute("CHECKPOINT")
    return warnings


def _remove(part: Path) -> None:
    """Removes a database file and its write-ahead log, such as a killed build leaves."""
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.wal").unlink(missing_ok=True)
