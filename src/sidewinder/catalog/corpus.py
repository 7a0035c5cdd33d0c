"""Records of corpus, token and blend jobs → rows of sources, filters, shards and blends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sidewinder.catalog.rows import Row, Rows, number, whole
from sidewinder.catalog.survey import Record, Survey, read_json

BLEND = "blend.json"


def corpus_rows(records: Iterable[Record], found: Survey) -> Rows:
    """Rows of every table that describes text and tokens."""
    rows: Rows = {"sources": [], "filters": [], "dropped": [], "dropped_samples": [], "shards": [], "blends": []}
    for record in records:
        kind, depth = record.parts[0], len(record.parts)
        if kind == "corpus" and depth == 2:
            rows["filters"].extend(_filters(record))
            rows["dropped"].extend(_dropped(record))
            rows["dropped_samples"].extend(_samples(record))
            rows["sources"].append(_source(record))
        elif kind == "tokens" and depth == 3:
            rows["shards"].append(_shard(record))
        elif kind == "tokens" and record.outputs("blend"):
            rows["blends"].extend(_blend(record, found))
    return rows


def _name(record: Record) -> str:
    """Name of the source whose folder this is: `corpus/english-1f3a5b7c` → `english`."""
    return record.parts[1].rsplit("-", 1)[0]


def _source(record: Record) -> Row:
    settings = record.data["config"].get("source")
    settings = settings if isinstance(settings, dict) else {}
    steps = _filters(record)
    first, last = (steps[0]["documents_in"], steps[-1]["documents_out"]) if steps else (None, None)
    return {
        "job": record.job,
        "source": _name(record),
        "language": settings.get("language"),
        "licence": settings.get("licence"),
        "documents": whole(record.fact("train_documents")),
        "bytes": whole(record.fact("train_bytes")),
        "heldout_documents": whole(record.fact("heldout_documents")),
        "heldout_bytes": whole(record.fact("heldout_bytes")),
        "read_documents": first,
        "dropped_documents": None if first is None or last is None else first - last,
        "current": record.current,
    }


def _filters(record: Record) -> list[Row]:
    counts = ("documents_in", "documents_out", "bytes_in", "bytes_out")
    return [name | {count: whole(entry.get(count)) for count in counts} for name, entry in _steps(record)]


def _steps(record: Record) -> Iterator[tuple[Row, dict[str, Any]]]:
    """What names a step in every table, and its facts."""
    listed: Any = record.fact("steps")
    for place, entry in enumerate(listed if isinstance(listed, list) else (), start=1):
        if isinstance(entry, dict):
            yield {"job": record.job, "source": _name(record), "place": place, "step": str(entry.get("block"))}, entry


def _dropped(record: Record) -> list[Row]:
    return [
        name | {"reason": reason, "documents": whole(lost.get("documents")), "bytes": whole(lost.get("bytes"))}
        for name, entry in _steps(record)
        for reason, lost in _losses(entry)
    ]


def _samples(record: Record) -> list[Row]:
    return [
        name | {"reason": reason, "document": str(sample.get("id")), "text": str(sample.get("text"))}
        for name, entry in _steps(record)
        for reason, lost in _losses(entry)
        for sample in lost.get("samples", [])
    ]


def _losses(entry: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Why a step dropped documents, and how many; what it cut out of documents that it kept is a reason as well."""
    losses = sorted(entry.get("dropped", {}).items())
    if edited := entry.get("edited_bytes"):
        losses.append(("edited away", {"documents": 0, "bytes": edited}))
    return losses


def _shard(record: Record) -> Row:
    found: Any = record.fact("encoder_check")
    checked = found if isinstance(found, dict) else {}
    return {
        "job": record.job,
        "source": _name(record),
        "shard": record.parts[2],
        "split": record.parts[2].rsplit("-", 1)[0],
        "documents": whole(record.fact("documents")),
        "tokens": whole(record.fact("tokens")),
        "text_bytes": whole(record.fact("text_bytes")),
        "encoder": record.fact("encoder"),
        "compared_documents": whole(checked.get("documents")),
        "differing_documents": whole(checked.get("differing")),
        "current": record.current,
    }


def _blend(record: Record, found: Survey) -> list[Row]:
    document = read_json(record.folder / BLEND, found) or {}
    sources = document.get("sources")
    return [
        {"job": record.job, "source": name, "weight": number(entry.get("weight")), "current": record.current}
        for name, entry in sorted(sources.items() if isinstance(sources, dict) else ())
        if isinstance(entry, dict)
    ]
