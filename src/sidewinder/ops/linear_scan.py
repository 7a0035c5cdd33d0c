"""The first-order recurrence h[t] = a[t] ∘ h[t−1] + b[t] along the first dimension, in place, both ways in time.

Two ways of the same sums. Where one position is wide, walking over the positions of a block is fastest: each call has
enough to do. Where it is narrow, pairs of neighbours are joined, the half-as-long recurrence is solved, and the others
follow from it: 3 log₂ T calls instead of T, for three passes over the numbers instead of one.
Shapes: T positions, then any.
"""

from __future__ import annotations

from torch import Tensor

WIDE = 1 << 14
"""Numbers a position from which walking is faster (measured on one core: 32,768 numbers 7 against 10 ms, 2,048 numbers
32 against 24 ms)."""


def scan_forward_(a_T: Tensor, b_T: Tensor) -> Tensor:
    """b[t] ← b[t] + a[t] ∘ b[t−1], first to last; a[0] is not read. Returns `b`."""
    if b_T[0].numel() >= WIDE:
        decays, states = a_T.unbind(0), b_T.unbind(0)
        for t in range(1, len(states)):
            states[t].addcmul_(decays[t], states[t - 1])
        return b_T
    return _pairs_forward_(a_T, b_T)


def scan_backward_(a_T: Tensor, b_T: Tensor) -> Tensor:
    """b[t] ← b[t] + a[t] ∘ b[t+1], last to first; `a` may be one shorter than `b`. Returns `b`."""
    if b_T[0].numel() >= WIDE:
        decays, states = a_T.unbind(0), b_T.unbind(0)
        for t in range(len(states) - 2, -1, -1):
            states[t].addcmul_(decays[t], states[t + 1])
        return b_T
    return _pairs_backward_(a_T, b_T)


def _pairs_forward_(a_T: Tensor, b_T: Tensor) -> Tensor:
    length = len(b_T)
    if length == 1:
        return b_T
    pairs = length // 2
    second = b_T[1::2].addcmul_(a_T[1::2], b_T[0 : 2 * pairs : 2])
    if pairs > 1:
        _pairs_forward_(a_T[1::2] * a_T[0 : 2 * pairs : 2], second)
    if length > 2:
        first = b_T[2::2]
        first.addcmul_(a_T[2::2], second[: len(first)])
    return b_T


def _pairs_backward_(a_T: Tensor, b_T: Tensor) -> Tensor:
    length = len(b_T)
    if length == 1:
        return b_T
    pairs = length // 2
    first, second = b_T[0::2], b_T[1::2]
    first[:pairs].addcmul_(a_T[0 : 2 * pairs : 2], second)
    joints = len(first) - 1
    if joints:
        _pairs_backward_(a_T[0 : 2 * joints : 2] * a_T[1 : 2 * joints : 2], first)
        second[:joints].addcmul_(a_T[1 : 2 * joints : 2], first[1:])
    return b_T
