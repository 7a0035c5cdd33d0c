"""Everything below a results folder → the tables of a DuckDB connection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import duckdb

from sidewinder.catalog.corpus import corpus_rows
from sidewinder.catalog.metrics import ingest_metrics
from sidewinder.catalog.rows import Row, Rows, job_rows, lineage_rows
from sidewinder.catalog.runs import export_rows, run_rows, score_rows
from sidewinder.catalog.samples import view_samples
from sidewinder.catalog.survey import Survey, survey
from sidewinder.record import digest

# Columns that hold seconds since 1970 in records and a time in the catalog.
TIMES = {"started_at", "ended_at", "time"}


def ingest(
    connection: duckdb.DuckDBPyConnection, results: Path, current: Sequence[Path] | None = None
) -> list[tuple[str, str]]:
    """Makes and fills all tables and views; returns (path, message) of every file that had to be left out.

    `current` lists the records of the study as it is configured now; None takes all as current. Rows are inserted in
    order of path, so that equal results give equal tables.
    """
    connection.execute("SET preserve_insertion_order = true")
    connection.execute(resources.files(__package__).joinpath("tables.sql").read_text())
    found = survey(results, current)
    for rows in (
        study_rows(found),
        job_rows(found.records),
        lineage_rows(found.records),
        corpus_rows(found.records, found),
        run_rows(found.stages),
        score_rows(found.records, found),
        export_rows(found.records),
    ):
        _insert_all(connection, rows)
    ingest_metrics(connection, found)
    view_samples(connection, found.records, found)
    _insert_all(connection, {"warnings": [{"path": path, "message": text} for path, text in found.warnings]})
    connection.execute(resources.files(__package__).joinpath("views.sql").read_text())
    return found.warnings


def study_rows(found: Survey) -> Rows:
    """The study as it was last run, where the workflow left it."""
    if found.study is None:
        return {}
    name, config = found.study.get("study"), json.dumps(found.study)
    return {"study": [{"name": name, "config": config, "sha256": digest(found.study)}]}


def _insert_all(connection: duckdb.DuckDBPyConnection, rows: Rows) -> None:
    for table, entries in rows.items():
        if entries:
            _insert(connection, table, entries)


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[Row]) -> None:
    """Inserts rows column by column: one statement a table, whatever its length."""
    columns = connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", [table]
    ).fetchall()
    values = ", ".join(_column(name, kind) for name, kind in columns)
    lists = {name: [row[name] for row in rows] for name, _ in columns}
    connection.execute(f"INSERT INTO {table} SELECT {values}", lists)


def _column(name: str, kind: str) -> str:
    if name in TIMES:
        return f"make_timestamp(CAST(round(1e6 * unnest(${name}::DOUBLE[])) AS BIGINT))"
    return f"unnest(${name}::{kind}[])"
