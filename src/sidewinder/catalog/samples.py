"""samples.parquet of every evaluation → the view `samples`, which reads the files where they are.

Prompts of long tasks are large, so they are not copied into the catalog.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import duckdb

from sidewinder.catalog.survey import Record, Survey

COLUMNS = {
    "task": "VARCHAR",
    "variant": "VARCHAR",
    "context_tokens": "BIGINT",
    "sample": "BIGINT",
    "prompt": "VARCHAR",
    "answer": "VARCHAR",
    "prediction": "VARCHAR",
    "metrics": "MAP(VARCHAR, DOUBLE)",
    "details": "JSON",
}


def view_samples(connection: duckdb.DuckDBPyConnection, records: Iterable[Record], found: Survey) -> None:
    """Makes the table `sample_files` and the view `samples`; a file that is not as recorded is named and left out."""
    rows = [
        (str(path.resolve()), record.stage, record.stage.split("/")[0], record.suite, record.job, record.current)
        for record in records
        if record.stage
        for entry in record.outputs("samples")
        if (path := _file(record, entry, found)) is not None
    ]
    connection.execute(
        "CREATE TABLE sample_files (file VARCHAR, stage VARCHAR, run VARCHAR, suite VARCHAR, job VARCHAR, "
        "current BOOLEAN)"
    )
    if not rows:
        empty = ", ".join(f"NULL::{kind} AS {name}" for name, kind in COLUMNS.items())
        connection.execute(f"CREATE VIEW samples AS SELECT f.*, {empty} FROM sample_files AS f WHERE false")
        return
    connection.executemany("INSERT INTO sample_files VALUES (?, ?, ?, ?, ?, ?)", rows)
    files = ", ".join("'" + row[0].replace("'", "''") + "'" for row in rows)
    columns = ", ".join(f"s.{name}::{kind} AS {name}" for name, kind in COLUMNS.items())
    connection.execute(
        f"CREATE VIEW samples AS SELECT f.*, {columns} "
        f"FROM read_parquet([{files}], filename = true) AS s JOIN sample_files AS f ON f.file = s.filename"
    )


def _file(record: Record, entry: dict[str, object], found: Survey) -> Path | None:
    path = record.folder / Path(str(entry["path"])).name
    if path.suffix != ".parquet":  # Of an earlier version of Sidewinder.
        return None
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        found.warn(path, "is missing or not the file that its record lists; its samples are left out")
        return None
    return path
