"""Documents on their way into a token file: each gets its end, and those of a window of tokens are shuffled.

The shuffle depends on the shard's name, the window's number and its number of documents alone, so equal texts and an
equal tokenizer make equal bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sidewinder.tokens.permutation import Permutation

WINDOW_TOKENS = 1 << 24  # 64 MiB where a token takes four bytes.


class Window:
    """Collects documents; `take` gives them as (tokens, sizes), in shuffled order unless `shuffle` is off."""

    def __init__(self, name: str, eos: int, dtype: Any, shuffle: bool = True) -> None:
        self.name, self.eos, self.dtype, self.shuffle = name, eos, np.dtype(dtype), shuffle
        self.tokens = 0
        self._turn = 0
        self._parts: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []

    @property
    def full(self) -> bool:
        return self.tokens >= (WINDOW_TOKENS if self.shuffle else 1)

    def add(self, ids: np.ndarray, sizes: np.ndarray) -> None:
        """Appends documents: ids one after the other, and how many each has; each is ended here."""
        ended = with_ends(ids, sizes, self.eos, self.dtype)
        self._parts.append(ended)
        self._sizes.append(sizes + 1)
        self.tokens += len(ended)

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Everything collected; the window is empty afterwards."""
        parts, sizes = self._parts, np.concatenate([np.empty(0, np.int64), *self._sizes])
        self._parts, self._sizes, self.tokens = [], [], 0
        if not self.shuffle or not len(sizes):
            return np.concatenate([np.empty(0, self.dtype), *parts]), sizes
        documents = [document for part, cuts in self._cut(parts, sizes) for document in np.split(part, cuts)]
        order = Permutation(len(sizes), "window", self.name, self._turn)(np.arange(len(sizes)))
        self._turn += 1
        return np.concatenate([documents[place] for place in order]), sizes[order]

    def _cut(self, parts: list[np.ndarray], sizes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each part with the places, in it, where documents after its first begin."""
        ends = np.cumsum(sizes)
        found, start = [], 0
        for part in parts:
            inside = ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, start + len(part), "left")]
            found.append((part, inside - start))
            start += len(part)
        return found


def with_ends(ids: np.ndarray, sizes: np.ndarray, eos: int, dtype: Any) -> np.ndarray:
    """Ids of documents, each followed by the end-of-document token."""
    ended = np.empty(len(ids) + len(sizes), dtype)
    ends = np.cumsum(sizes + 1) - 1
    inside = np.ones(len(ended), bool)
    inside[ends] = False
    ended[inside] = ids
    ended[ends] = eos
    return ended
