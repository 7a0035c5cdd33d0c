"""Samples of every suite in one form of Parquet file, so that the catalog can be asked about all of them at once.

A row is one sample: what the model was given, what was wanted, what it said, and its numbers. What only some suites
know (the place of an entry, the choices) is JSON in `details`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("variant", pa.string()),
        ("context_tokens", pa.int64()),
        ("sample", pa.int64()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("prediction", pa.string()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("details", pa.string()),
    ]
)
ROWS = 256
"""Rows of a group: long prompts are held in memory a group at a time."""


def write_samples(path: Path, samples: Iterable[dict[str, Any]], parts: Sequence[Path] = ()) -> None:
    """Writes samples, and behind them those of other such files, beside `path` and renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with pq.ParquetWriter(part, SCHEMA, compression="zstd") as writer:
        numbered = _numbered(samples)
        while rows := [_row(place, sample) for place, sample in islice(numbered, ROWS)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        for batch in chain.from_iterable(_batches(file) for file in parts):
            writer.write_batch(batch)
    part.replace(path)


def read_samples(path: Path) -> list[dict[str, Any]]:
    """All rows; metrics as a dictionary, details as they were."""
    rows = pq.read_table(path).to_pylist()
    return [row | {"metrics": dict(row["metrics"]), "details": json.loads(row["details"])} for row in rows]


def count_samples(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def _numbered(samples: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each sample with its place among those of its task, variant and length."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for sample in samples:
        key = tuple(sample.get(name) for name in ("task", "variant", "context_tokens"))
        yield counts[key], sample
        counts[key] += 1


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(ROWS)


def _row(place: int, sample: dict[str, Any]) -> dict[str, Any]:
    """A sample's columns; those that it has none for are empty, and what has no column is a detail."""
    known = {name: sample.get(name) for name in SCHEMA.names}
    details = {key: value for key, value in sample.items() if key not in known} | (sample.get("details") or {})
    known["sample"] = place if known["sample"] is None else known["sample"]
    known["metrics"] = list((known["metrics"] or {}).items())
    return known | {"details": json.dumps(details, ensure_ascii=False)}
