"""Questions to the catalog: SQL as the user writes it, or a named query of `queries/`.

The catalog is opened read-only. While jobs run, `live=True` reads the same tables from the records and metrics as they
are now, into memory, without any lock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from sidewinder.catalog.errors import CatalogError
from sidewinder.catalog.ingest import ingest
from sidewinder.catalog.table import Table

CATALOG = "study.duckdb"
READING = {"SELECT", "EXPLAIN", "PRAGMA", "MULTI"}  # MULTI is PIVOT, which DuckDB expands into several.
PARAMETER = re.compile(r"^-- \$(?P<name>\w+)(?: = (?P<default>[^:]*))?: (?P<meaning>.*)$")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a named query; one without a default has to be given."""

    name: str
    meaning: str
    required: bool
    default: str | None = None


@dataclass(frozen=True)
class NamedQuery:
    """A file of `queries/`: its first comment line is the title, `-- $name = default: meaning` lines its parameters."""

    name: str
    title: str
    parameters: tuple[Parameter, ...]
    sql: str


def named_queries() -> dict[str, NamedQuery]:
    """All named queries, by name."""
    folder = resources.files(__package__).joinpath("queries")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return {name: _parse(name, file.read_text()) for file in files for name in [file.name.removesuffix(".sql")]}


def _parse(name: str, sql: str) -> NamedQuery:
    header = [line for line in sql.splitlines() if line.startswith("--")]
    found = [match for line in header if (match := PARAMETER.match(line))]
    parameters = tuple(
        Parameter(match["name"], match["meaning"], match["default"] is None, _default(match["default"]))
        for match in found
    )
    return NamedQuery(name, header[0].removeprefix("--").strip(), parameters, sql)


def _default(written: str | None) -> str | None:
    return None if written is None or written.strip() == "NULL" else written.strip()


def query(
    results: Path,
    text: str,
    params: dict[str, Any] | None = None,
    live: bool = False,
    current: Sequence[Path] | None = None,
) -> Table:
    """Answers SQL, or a named query, about a results folder.

    `live` reads the files as they are now instead of the built catalog; `current` then lists the records of the present
    study, as in `build_catalog`. Raises CatalogError for a missing catalog, an unknown name, wrong parameters, SQL that
    DuckDB does not accept, and SQL that would change anything.
    """
    with _live(results, current) if live else open_catalog(results / CATALOG) as connection:
        return run_query(connection, text, params)


def run_query(connection: duckdb.DuckDBPyConnection, text: str, params: dict[str, Any] | None = None) -> Table:
    """Runs SQL or a named query on an open catalog. Raises as `query`."""
    known = named_queries()
    if text.strip() in known:
        return _run_named(connection, known[text.strip()], params or {})
    if re.fullmatch(r"[\w-]+", text.strip()):
        near = ", ".join(get_close_matches(text.strip(), known, n=3, cutoff=0.3)) or "-"
        raise CatalogError(
            f"unknown query {text.strip()!r}; nearest: {near}",
            remedy=f'use one of {", ".join(known)}, or write SQL, such as "SELECT * FROM runs"',
        )
    return _run(connection, text, params or {}, title="")


def _run_named(connection: duckdb.DuckDBPyConnection, named: NamedQuery, params: dict[str, Any]) -> Table:
    names = [parameter.name for parameter in named.parameters]
    for given in params:
        if given not in names:
            near = (get_close_matches(given, names, n=1, cutoff=0.0) or ["-"])[0]
            raise CatalogError(
                f"query {named.name}: unknown parameter {given!r}; nearest: {near}",
                remedy=f"it takes {', '.join(names) or 'no parameters'}",
            )
    for parameter in named.parameters:
        if parameter.required and parameter.name not in params:
            raise CatalogError(
                f"query {named.name}: parameter {parameter.name!r} is missing: {parameter.meaning}",
                remedy=f"add --param {parameter.name}=…",
            )
    values = {parameter.name: params.get(parameter.name, parameter.default) for parameter in named.parameters}
    return _run(connection, named.sql, values, named.title)


def _run(connection: duckdb.DuckDBPyConnection, sql: str, params: dict[str, Any], title: str) -> Table:
    try:
        statements = connection.extract_statements(sql)
        _refuse_changes(statements)
        # PIVOT takes no parameters, so that its queries read them with getvariable('name').
        for name, value in params.items():
            connection.execute(f'SET VARIABLE "{name}" = $value', {"value": value})
        if any(name not in params for name in statements[0].named_parameters):
            missing = sorted(name for name in statements[0].named_parameters if name not in params)
            raise CatalogError(f"no value for ${missing[0]}", remedy=f"add --param {missing[0]}=…")
        used = {name: params[name] for name in statements[0].named_parameters}
        connection.execute(statements[0], used)
        return Table([column[0] for column in connection.description or []], connection.fetchall(), title)
    except duckdb.Error as error:
        raise CatalogError(str(error), remedy=f"tables: {', '.join(_tables(connection))}") from None


def _refuse_changes(statements: list[duckdb.Statement]) -> None:
    kinds = [statement.type.name for statement in statements]
    if len(kinds) != 1:
        raise CatalogError(f"one statement at a time, got {len(kinds)}", remedy="ask one after the other")
    if kinds[0] not in READING:
        raise CatalogError(
            f"the catalog is read-only, but this is {kinds[0]}",
            remedy="it is rebuilt from the results folder; use SELECT, WITH, FROM, PIVOT, DESCRIBE or SUMMARIZE",
        )


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of all tables and views."""
    tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    return sorted(name for (name,) in tables + views)


def open_catalog(database: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection. Raises CatalogError where there is no catalog, or a program holds it for writing."""
    if not database.is_file():
        raise CatalogError(
            f"there is no catalog at {database}",
            remedy="run the study first; while its jobs run, `sidewinder query --live` reads their files as they are",
        )
    try:
        return duckdb.connect(str(database), read_only=True)
    except duckdb.Error as error:
        raise CatalogError(
            f"cannot open {database}: {error}",
            remedy="close the program that holds it, or rebuild it with `sidewinder catalog`",
        ) from None


def _live(results: Path, current: Sequence[Path] | None) -> duckdb.DuckDBPyConnection:
    if not results.is_dir():
        raise CatalogError(f"there is no results folder at {results}", remedy="run the study first")
    connection = duckdb.connect(":memory:")
    ingest(connection, results, current)
    return connection
