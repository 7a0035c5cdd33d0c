"""Reads blend.json, the one file through which training and evaluation find tokens.

Paths in it are relative to its own folder, so that its digest, and with it the identity of every run, does not depend
on where the results lie.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidewinder.errors import CorruptArtifact


def read_blend(path: Path) -> dict[str, Any]:
    """blend.json with every shard's `prefix` as a Path that can be opened. Raises CorruptArtifact naming the file."""
    try:
        blend = json.loads(path.read_text())
        for entry in blend["sources"].values():
            for shard in [*entry.get("shards", []), *entry.get("heldout", [])]:
                shard["prefix"] = path.parent / shard["prefix"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifact(
            f"cannot read {path}: {error}", remedy=f"delete {path.parent} and run the study again"
        ) from error
    return blend


def bytes_per_token(blend: Mapping[str, Any]) -> float | None:
    """Bytes of text that a training token of a blend stands for on average; None where a shard's bytes are not known.

    The weights are shares of the training tokens, so it is the weighted mean over the sources. An end of document is a
    token without bytes, in training as here.
    """
    total = 0.0
    for entry in blend["sources"].values():
        shards = entry["shards"]
        if any("text_bytes" not in shard for shard in shards):
            return None
        if entry["weight"]:
            total += entry["weight"] * sum(shard["text_bytes"] for shard in shards) / sum(s["tokens"] for s in shards)
    return total / sum(entry["weight"] for entry in blend["sources"].values())
