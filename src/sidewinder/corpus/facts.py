"""What a corpus record says of its documents: what each step dropped, what each shard holds, the totals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Step → what its counts of dropped documents begin with, in the order that a document meets them.
STEPS = {"read": "bad", "length": "short", "reserved character": "reserved", "deduplication": "duplicate"}
UNITS = ("documents", "bytes", "characters")


def corpus_facts(counts: Mapping[str, int], shards: list[str], first_bad: list[str]) -> dict[str, Any]:
    """All facts of a source that was read. Documents in = documents out + dropped, at every step."""
    return {
        "steps": step_facts(counts),
        **shard_facts(counts, shards),
        "bad_documents": counts["bad_documents"],
        "first_bad": first_bad,
    }


def step_facts(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Documents and bytes into and out of every step."""
    entries = []
    documents, size_bytes = (counts[f"read_{unit}"] + counts[f"bad_{unit}"] for unit in ("documents", "bytes"))
    for step, dropped in STEPS.items():
        entry = {"step": step, "documents_in": documents, "bytes_in": size_bytes}
        documents -= counts[f"{dropped}_documents"]
        size_bytes -= counts[f"{dropped}_bytes"]
        entries.append(entry | {"documents_out": documents, "bytes_out": size_bytes})
    return entries


def shard_facts(counts: Mapping[str, int], shards: list[str]) -> dict[str, Any]:
    """Documents, bytes and characters of every shard, and their sums for training (train_…) and held-out text."""
    entries = [{"shard": shard} | {unit: counts[f"{shard}_{unit}"] for unit in UNITS} for shard in shards]
    totals = {
        f"{part}_{unit}": sum(counts[f"{shard}_{unit}"] for shard in shards if shard.startswith(part))
        for part in ("train", "heldout")
        for unit in UNITS
    }
    return {**totals, "shards": entries}
