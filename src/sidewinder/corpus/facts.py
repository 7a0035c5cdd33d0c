"""What the record of a source says of its documents: what each step dropped and why, what is left for which use.

Steps are the blocks' counts (`filters.Counts`), with reading before and duplicates behind them. What comes out of a
step goes into the next; within each, documents and bytes in = out + dropped by reason (+ bytes edited away).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidewinder.corpus.filters import Counts, merged
from sidewinder.corpus.filters.block import Dropped
from sidewinder.errors import DataError

NAMED_UNREADABLE = 10


def first_step(name: str, passed: tuple[int, int], dropped: Mapping[str, tuple[int, int]]) -> Counts:
    """Counts of a step that is no block, from (documents, bytes) that passed it and that it dropped by reason."""
    counts = Counts(name, documents_out=passed[0], bytes_out=passed[1])
    counts.dropped = {reason: Dropped(*lost) for reason, lost in dropped.items() if any(lost)}
    counts.documents_in = passed[0] + sum(lost[0] for lost in dropped.values())
    counts.bytes_in = passed[1] + sum(lost[1] for lost in dropped.values())
    return counts


def source_facts(
    facts: list[dict[str, Any]], left_out: list[tuple[int, int]], heldout: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """Facts of a source from those of its shards, what is left out of each, and the held-out documents kept and not."""
    again = [sum(lost[unit] for lost in (*left_out, heldout["dropped"])) for unit in (0, 1)]
    kept = [
        sum(one[f"train_{unit}"] for one in facts) - sum(lost[place] for lost in left_out)
        for place, unit in enumerate(("documents", "bytes"))
    ]
    passed = kept[0] + heldout["kept"][0], kept[1] + heldout["kept"][1]
    duplicates = first_step("duplicates", passed, {"duplicate": (again[0], again[1])})
    return {
        "steps": [*merged(one["steps"] for one in facts), duplicates.as_dict()],
        "train_documents": kept[0],
        "train_bytes": kept[1],
        "heldout_documents": heldout["kept"][0],
        "heldout_bytes": heldout["kept"][1],
        "unreadable": [place for one in facts for place in one["unreadable"]][:NAMED_UNREADABLE],
    }


def check_not_empty(source: str, facts: Mapping[str, Any]) -> None:
    """Raises DataError, with all counts, where there is nothing to train on or nothing held out."""
    seen = f"read {facts['steps'][0]['documents_in']:,} documents" + "".join(
        f", {reason} {dropped['documents']:,}" for step in facts["steps"] for reason, dropped in step["dropped"].items()
    )
    if not facts["train_documents"]:
        named = "".join(f"\n  {place}" for place in facts["unreadable"][:3])
        raise DataError(
            f"source {source} is empty: {seen}{named}",
            remedy=f"check sources.{source}: its reader, filters and minimum_characters",
        )
    if not facts["heldout_documents"]:
        raise DataError(
            f"source {source} has no held-out document: {seen}, for training {facts['train_documents']:,}",
            remedy="raise heldout_share, or give the source more documents",
        )
