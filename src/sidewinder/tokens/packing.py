"""Whole documents laid into sequences: best fit, in windows of some thousand documents.

A document longer than a sequence is cut: its first parts each fill a sequence, and what is left is laid out like a
short document. The parts of a window are taken from the longest to the shortest; each goes where it leaves the least
room (best fit decreasing, as in arXiv 2404.10830). A few unfinished sequences are carried into the next window.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

import numpy as np

WINDOW_PARTS = 4096
"""Parts sorted at a time."""
CARRIED_SEQUENCES = 64
"""Unfinished sequences carried on; at the end of a shard so many at most are left with much room."""


class Sequences(NamedTuple):
    """Finished sequences: the parts of all of them in order, and how many parts each has.

    A part begins at token `start` of its shard; ~start says that it goes on with a document that began before.
    """

    starts: np.ndarray
    lengths: np.ndarray
    parts: np.ndarray


class Packer:
    """Takes documents in order and gives finished sequences."""

    def __init__(self, context_tokens: int) -> None:
        self.context_tokens = context_tokens
        self._waiting: list[tuple[int, int]] = []
        self._open: dict[int, list[tuple[int, int]]] = {}
        self._rooms: list[tuple[int, int]] = []  # (room left, number of the sequence), sorted
        self._numbers = 0
        self._done: list[list[tuple[int, int]]] = []

    def add(self, starts: np.ndarray, sizes: np.ndarray) -> Sequences:
        """Lays documents (first token, tokens); returns what was finished meanwhile."""
        for part in zip(*map(np.ndarray.tolist, cut(starts, sizes, self.context_tokens)), strict=True):
            if part[1] == self.context_tokens:
                self._done.append([part])
                continue
            self._waiting.append(part)
            if len(self._waiting) == WINDOW_PARTS:
                self._lay()
        return self._finished()

    def close(self) -> Sequences:
        """Lays what waits and finishes everything."""
        self._lay()
        self._close(keep=0)
        return self._finished()

    def _lay(self) -> None:
        """Lays the parts that wait, the longest first; then keeps only the emptiest sequences open."""
        for part in sorted(self._waiting, key=lambda part: -part[1]):
            place = bisect_left(self._rooms, (part[1], -1))
            if place < len(self._rooms):
                room, number = self._rooms.pop(place)
            else:
                room, number = self.context_tokens, self._numbers
                self._open[number] = []
                self._numbers += 1
            self._open[number].append(part)
            if room == part[1]:
                self._done.append(self._open.pop(number))
            else:
                insort(self._rooms, (room - part[1], number))
        self._waiting = []
        self._close(keep=CARRIED_SEQUENCES)

    def _close(self, keep: int) -> None:
        """Finishes the fullest sequences until `keep` are left."""
        excess = max(0, len(self._rooms) - keep)
        self._done += [self._open.pop(number) for _, number in self._rooms[:excess]]
        del self._rooms[:excess]

    def _finished(self) -> Sequences:
        done, self._done = self._done, []
        flat = np.array([part for sequence in done for part in sequence], dtype=np.int64).reshape(-1, 2)
        return Sequences(flat[:, 0], flat[:, 1], np.array([len(sequence) for sequence in done], dtype=np.int64))


def cut(starts: np.ndarray, sizes: np.ndarray, context_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts, lengths) of parts of documents that fit a sequence; empty documents have none."""
    parts = -(-sizes // context_tokens)
    first = np.repeat(np.cumsum(parts) - parts, parts)
    skipped = (np.arange(len(first), dtype=np.int64) - first) * context_tokens
    places = np.repeat(starts, parts) + skipped
    lengths = np.minimum(np.repeat(sizes, parts) - skipped, context_tokens)
    return np.where(skipped > 0, ~places, places), lengths
