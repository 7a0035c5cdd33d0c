"""A shuffle of 0 … n - 1 that is computed where it is asked for: no table, whatever n.

A number is written in two digits, of bases a and b with a·b just above n, and each digit in turn is moved by a function
of the other one: every round can be undone, so no two numbers ever meet (a generalised Feistel network; Black and
Rogaway, doi 10.1007/3-540-45760-7_9). The few results of n or more are sent round again until they fall below n.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

ROUNDS = 8
MIXERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
ONE = np.uint64(1)


class Permutation:
    """A shuffle that depends on its length and seed alone, not on any library's generator.

    >>> shuffle = Permutation(1000, "seed")
    >>> len(set(shuffle(np.arange(1000))))
    1000
    """

    def __init__(self, length: int, *seed: object) -> None:
        first = math.isqrt(max(0, length - 1)) + 1
        self.length = length
        self._bases = np.uint64(first), np.uint64(-(-length // first) or 1)
        self._keys = keys(ROUNDS, length, *seed)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Where the shuffle has each place, as int64; places lie in 0 … length - 1."""
        found = self._once(places.astype(np.uint64))
        beyond = np.flatnonzero(found >= self.length)
        while beyond.size:
            found[beyond] = self._once(found[beyond])
            beyond = beyond[found[beyond] >= self.length]
        return found.astype(np.int64)

    def _once(self, places: np.ndarray) -> np.ndarray:
        first_base, second_base = self._bases
        first, second = np.divmod(places, second_base)
        for turn in range(0, ROUNDS, 2):
            first = (first + mixed(second + self._keys[turn])) % first_base
            second = (second + mixed(first + self._keys[turn + 1])) % second_base
        return first * second_base + second


def keys(count: int, *seed: object) -> np.ndarray:
    """Up to eight numbers of 64 bits drawn from a seed."""
    drawn = hashlib.blake2b("/".join(map(str, seed)).encode(), digest_size=8 * count).digest()
    return np.frombuffer(drawn, dtype="<u8").astype(np.uint64)


def mixed(values: np.ndarray) -> np.ndarray:
    """Each number well mixed by splitmix64's finaliser (doi 10.1145/2660193.2660195), and halved: room for a sum."""
    values = (values ^ (values >> SHIFTS[0])) * MIXERS[0]
    values = (values ^ (values >> SHIFTS[1])) * MIXERS[1]
    return (values ^ (values >> SHIFTS[2])) >> ONE
