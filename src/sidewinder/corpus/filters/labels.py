"""The labels of a fastText model, read from the beginning of its file without loading the model."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from sidewinder.errors import DataError

MAGIC = 793_712_314
SETTINGS = struct.Struct("<12id")  # Sizes and rates that the model was trained with.
COUNTS = struct.Struct("<3i2q")  # Entries, words, labels; tokens, pruned entries.
ENTRY = struct.Struct("<qb")  # After an entry's text and a NUL: how often it was seen, and whether it is a label.


def model_labels(path: Path) -> list[str]:
    """Labels in alphabetic order, without `__label__`. Raises DataError where the file is not a model with labels."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            labels = _labels(content)
    except (OSError, ValueError, struct.error) as error:
        raise DataError(
            f"not a fastText model: {error}", remedy="name a model (.bin or .ftz) that classifies languages"
        ) from error
    return sorted(label.decode().removeprefix("__label__") for label in labels)


def _labels(content: mmap.mmap) -> list[bytes]:
    if struct.unpack_from("<i", content) != (MAGIC,):
        raise ValueError("it does not begin as one")
    place = 8 + SETTINGS.size
    entries, _, count, _, _ = COUNTS.unpack_from(content, place)
    place += COUNTS.size
    labels = []
    for _ in range(entries):
        end = content.find(b"\0", place)
        _, is_label = ENTRY.unpack_from(content, end + 1)
        if is_label:
            labels.append(content[place:end])
        place = end + 1 + ENTRY.size
    if not labels or len(labels) != count:
        raise ValueError(f"it has {len(labels)} labels")
    return labels
