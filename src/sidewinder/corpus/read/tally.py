"""What a reader could not turn into documents: counted by reason, and the first few named."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

NAMED = 10  # How many unreadable places a reader names; all are counted.


class Place(NamedTuple):
    """Where something unreadable is, and what is wrong with it. `unit` says what `at` counts."""

    file: str
    at: int
    unit: str
    reason: str

    def __str__(self) -> str:
        if not self.unit:
            return f"{self.file}: {self.reason}"
        return f"{self.file}: {self.unit} {self.at:,}: {self.reason}"


class Damaged(Exception):
    """The rest of a file cannot be read; `left_bytes` of it, as stored, are lost."""

    def __init__(self, reason: str, left_bytes: int) -> None:
        super().__init__(reason)
        self.left_bytes = left_bytes


class Tally:
    """Counts of one run of a reader; plain numbers, because a statistics object a document would cost more than it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.named: list[Place] = []

    def bad(self, file: str, at: int, unit: str, reason: str, size_bytes: int) -> None:
        """Something that is no document: a broken line, a value that is not text, the rest of a damaged file."""
        self.dropped("bad", size_bytes)
        if len(self.named) < NAMED:
            self.named.append(Place(file, at, unit, reason))

    def empty(self) -> None:
        """A document without a single character."""
        self.dropped("empty", 0)

    def oversized(self, size_bytes: int) -> None:
        """A document that is larger than the reader's `maximum_bytes`; its size as stored, decompressed."""
        self.dropped("oversized", size_bytes)

    def dropped(self, reason: str, size_bytes: int) -> None:
        self.counts[f"{reason}_documents"] += 1
        self.counts[f"{reason}_bytes"] += size_bytes
