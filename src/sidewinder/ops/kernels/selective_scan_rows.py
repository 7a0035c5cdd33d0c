# mypy: ignore-errors
# ruff: noqa: RUF005
# Triton compiles these functions from a subset of Python: no annotations, tuples by +, constants tested by themselves.
"""What the selective scan's kernels load: ROWS tokens of each input at a step, then what each state needs.

Shapes: D channels, N state size.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sidewinder.ops.kernels.activations import softplus

ROWS = 8
"""Tokens a step. The kernels hold ROWS rows of each input in registers; the sums over channels are written for 8."""


@triton.jit
def long_(value):
    """A scalar as int64, also where it is a constant (an argument of 1 is one)."""
    return tl.full((), value, tl.int64)


@triton.jit
def load_rows(start, row_stride, rows_left, in_d, ROWS: tl.constexpr):
    """ROWS rows (float32) from `start` on; rows past the last token are 0."""
    rows = ()
    for i in tl.static_range(ROWS):
        rows = rows + (tl.load(start + i * row_stride, mask=in_d & (i < rows_left), other=0.0).to(tl.float32),)
    return rows


@triton.jit
def load_steps(start, row_stride, bias_d, rows_left, in_d, ROWS: tl.constexpr):
    """Step sizes: the rows themselves or, with a bias, softplus(row + bias). 0 past the last token: states stay."""
    rows = load_rows(start, row_stride, rows_left, in_d, ROWS)
    if bias_d is not None:
        steps = ()
        for i in tl.static_range(ROWS):
            steps = steps + (tl.where(i < rows_left, softplus(rows[i] + bias_d), 0.0),)
        rows = steps
    return rows


@triton.jit
def load_words(bc, ROWS: tl.constexpr):
    """B and C of ROWS tokens and one state, as they are stored."""
    words = ()
    for i in tl.static_range(ROWS):
        words = words + (tl.load(bc + i),)
    return words


@triton.jit
def low(word):
    return word.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def high(word):
    return (word >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def order(never, values, target):
    """A branch that is never taken. Without one the assembler delays the loads of the next state to the very end of
    this one, to save registers, and every state then waits for the L2 cache."""
    if never:
        tl.store(target, tl.sum(values))


@triton.jit
def decays_of(dt_rows, a2, resets, rows_left, ROWS: tl.constexpr):
    """exp(dt · A) of ROWS tokens, 0 where a document begins; a2 is A / ln 2."""
    decays = ()
    for i in tl.static_range(ROWS):
        decay = tl.exp2(dt_rows[i] * a2)
        if resets is not None:
            decay = tl.where(tl.load(resets + i, mask=i < rows_left, other=0) != 0, 0.0, decay)
        decays = decays + (decay,)
    return decays
