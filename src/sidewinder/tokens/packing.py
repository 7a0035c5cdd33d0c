"""Whole documents laid into sequences: best fit, in windows of some thousand documents.

A document longer than a sequence is cut: its first parts each fill a sequence, and what is left is laid out like a
short document. The parts of a window are taken from the longest to the shortest; each goes where it leaves the least
room (best fit decreasing, as in arXiv 2404.10830). A few unfinished sequences are carried into the next window.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import itemgetter
from typing import NamedTuple

import numpy as np

WINDOW_PARTS = 4096
"""Parts sorted at a time."""
CARRIED_SEQUENCES = 64
"""Unfinished sequences carried on; at the end of a shard so many at most are left with much room."""
NUMBER_BITS = 40
NUMBER_MASK = (1 << NUMBER_BITS) - 1

Part = tuple[int, int]
_length = itemgetter(1)


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
        self._waiting: list[Part] = []
        self._open: dict[int, list[Part]] = {}
        self._rooms: list[int] = []  # Room left and number of each open sequence, as one number, sorted.
        self._numbers = 0
        self._done: list[list[Part]] = []

    def add(self, starts: np.ndarray, sizes: np.ndarray) -> Sequences:
        """Lays documents (first token, tokens); returns what was finished meanwhile."""
        starts, lengths = cut(starts, sizes, self.context_tokens)
        full = lengths == self.context_tokens
        self._done += [[part] for part in _parts(starts[full], lengths[full])]
        self._waiting += _parts(starts[~full], lengths[~full])
        while len(self._waiting) >= WINDOW_PARTS:
            self._lay(self._waiting[:WINDOW_PARTS])
            del self._waiting[:WINDOW_PARTS]
        return self._finished()

    def close(self) -> Sequences:
        """Lays what waits and finishes everything."""
        self._lay(self._waiting)
        self._waiting = []
        self._close(keep=0)
        return self._finished()

    def _lay(self, parts: list[Part]) -> None:
        """Lays the parts of a window, the longest first; then keeps only the emptiest sequences open."""
        rooms, sequences = self._rooms, self._open
        for part in sorted(parts, key=_length, reverse=True):
            length = part[1]
            place = bisect_left(rooms, length << NUMBER_BITS)
            if place < len(rooms):
                found = rooms.pop(place)
                number = found & NUMBER_MASK
                sequences[number].append(part)
            else:
                number = self._numbers
                self._numbers += 1
                found = (self.context_tokens << NUMBER_BITS) | number
                sequences[number] = [part]
            left = found - (length << NUMBER_BITS)
            if left >> NUMBER_BITS:
                insort(rooms, left)
            else:
                self._done.append(sequences.pop(number))
        self._close(keep=CARRIED_SEQUENCES)

    def _close(self, keep: int) -> None:
        """Finishes the fullest sequences until `keep` are left."""
        excess = max(0, len(self._rooms) - keep)
        self._done += [self._open.pop(key & NUMBER_MASK) for key in self._rooms[:excess]]
        del self._rooms[:excess]

    def _finished(self) -> Sequences:
        done, self._done = self._done, []
        flat = np.array([part for sequence in done for part in sequence], dtype=np.int64).reshape(-1, 2)
        return Sequences(flat[:, 0], flat[:, 1], np.array([len(sequence) for sequence in done], dtype=np.int64))


def _parts(starts: np.ndarray, lengths: np.ndarray) -> list[Part]:
    return list(zip(starts.tolist(), lengths.tolist(), strict=True))


def cut(starts: np.ndarray, sizes: np.ndarray, context_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts, lengths) of parts of documents that fit a sequence; empty documents have none."""
    parts = -(-sizes // context_tokens)
    first = np.repeat(np.cumsum(parts) - parts, parts)
    skipped = (np.arange(len(first), dtype=np.int64) - first) * context_tokens
    places = np.repeat(starts, parts) + skipped
    lengths = np.minimum(np.repeat(sizes, parts) - skipped, context_tokens)
    return np.where(skipped > 0, ~places, places), lengths
