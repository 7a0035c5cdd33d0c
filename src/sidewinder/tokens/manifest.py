"""Reads blend.json, the one file through which training and evaluation find tokens.

Paths in it are relative to its own folder, so that its digest, and with it the identity of every run, does not depend
on where the results lie.
"""

from __future__ import annotations

import json
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
