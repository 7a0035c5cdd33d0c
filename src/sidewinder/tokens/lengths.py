"""How long documents are: histograms over powers of two, which add up over shards and sources."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BINS = 32
"""Bin b holds documents of 2^b up to 2^(b + 1) - 1 tokens."""
CHUNK_DOCUMENTS = 1 << 16

EDGES = np.left_shift(1, np.arange(1, BINS, dtype=np.int64))


def histogram(sizes: np.ndarray) -> np.ndarray:
    """int64 (2, BINS): documents and their tokens in each bin. Documents without a token are not counted."""
    sizes = np.asarray(sizes, dtype=np.int64)
    sizes = sizes[sizes > 0]
    bins = np.searchsorted(EDGES, sizes, side="right")
    documents = np.bincount(bins, minlength=BINS)
    return np.stack([documents, np.bincount(bins, weights=sizes, minlength=BINS).astype(np.int64)])


def chunks(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Sizes of documents, some at a time, so that memory does not grow with a shard."""
    for first in range(0, len(sizes), CHUNK_DOCUMENTS):
        yield np.asarray(sizes[first : first + CHUNK_DOCUMENTS], dtype=np.int64)


def named(counts: np.ndarray, digits: int | None = None) -> dict[str, float]:
    """One row of a histogram as {fewest tokens of the bin: count}, empty bins left out."""
    return {
        str(1 << place): float(count) if digits is None else round(float(count), digits)
        for place, count in enumerate(counts)
        if count
    }
