"""Starts of a stage → rows of the attempts table: when, on which nodes, from which step, and why each ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sidewinder.catalog.rows import Row, number, whole
from sidewinder.catalog.survey import METRICS, StageFolder
from sidewinder.cluster.ledger import Attempt, Ledger
from sidewinder.train.metrics import read_metrics


def attempt_rows(folder: StageFolder) -> list[Row]:
    """One row for each time that a stage was started, whether or not training began then, oldest first.

    What a launcher knows of it comes from the stage's ledger, what the training knows from its record or, while there
    is none, from its metrics.
    """
    trained, launched = _trained(folder), Ledger(folder.folder).attempts()
    rows = [_row(attempt, begun) for attempt, begun in _matched(launched, trained)]
    rows.sort(key=lambda row: row["started_at"])
    if folder.record and rows:
        rows[-1]["reason"] = "finished"
    run = folder.stage.split("/")[0]
    return [{"stage": folder.stage, "run": run, "attempt": place} | row for place, row in enumerate(rows, start=1)]


def _trained(folder: StageFolder) -> list[dict[str, Any]]:
    if folder.record is None:
        return read_metrics(folder.folder / METRICS).attempts
    listed = folder.record.fact("attempts")
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _matched(launched: list[Attempt], trained: list[dict[str, Any]]) -> Iterator[tuple[Attempt | None, dict[str, Any]]]:
    """Pairs each start of a job with the training that began in it; either may be without the other."""
    left = list(trained)
    for place, attempt in enumerate(launched):
        end = launched[place + 1].started_at if place + 1 < len(launched) else float("inf")
        inside = [entry for entry in left if attempt.started_at <= (number(entry.get("started_at")) or 0.0) < end]
        left = [entry for entry in left if entry not in inside]
        yield attempt, inside[0] if inside else {}
    yield from ((None, entry) for entry in left)


def _row(attempt: Attempt | None, begun: dict[str, Any]) -> Row:
    return {
        "from_step": whole(begun.get("from_step")),
        "started_at": attempt.started_at if attempt else number(begun.get("started_at")),
        "ended_at": attempt.ended_at if attempt else None,
        "reason": attempt.reason if attempt else None,
        "error": (attempt.error or None) if attempt else None,
        "launcher": attempt.launcher if attempt else None,
        "launched_job": attempt.job if attempt else None,
        "nodes": attempt.nodes if attempt else None,
        "code_sha256": begun.get("code"),
    }
