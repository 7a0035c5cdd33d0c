# mypy: ignore-errors
# ruff: noqa: RUF005
# Triton compiles these functions from a subset of Python: no annotations, tuples by +, constants tested by themselves.
"""The depthwise causal convolution: a program walks along time over a block of channels, each input loaded once.

The last W − 1 inputs stay in registers, so a tap costs no load. Backward makes the sum before the SiLU again on the
same walk, and at token t the gradient of the input W − 1 tokens back is complete.
Shapes: B batch, L length, C channels, W width.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sidewinder.ops.kernels.activations import sigmoid


@triton.jit
def _past(x, x_l, initial, initial_s, resets, start, in_c, WIDTH: tl.constexpr, HAS_INITIAL: tl.constexpr):
    """Inputs before token `start` (at `x`), newest first, as token `start` − 1 sees them (float32)."""
    past = ()
    hidden = start < 0
    for back in tl.static_range(1, WIDTH):
        row = tl.load(x - back * x_l, mask=in_c & (start >= back), other=0.0).to(tl.float32)
        if HAS_INITIAL:
            given = tl.load(initial + (start - back + WIDTH - 1) * initial_s, mask=in_c & (start < back), other=0.0)
            row += given.to(tl.float32)
        if resets is not None:
            row = tl.where(hidden, 0.0, row)
            hidden = hidden | (tl.load(resets - back, mask=start >= back, other=0) != 0)
        past = past + (row,)
    return past


@triton.jit
def _taps(weight, c, channels, WIDTH: tl.constexpr):
    """Weights of the inputs 0, 1, … tokens back (float32), from `weight` (C, W)."""
    taps = ()
    for back in tl.static_range(WIDTH):
        tap = tl.load(weight + c * WIDTH + (WIDTH - 1 - back), mask=c < channels, other=0.0)
        taps = taps + (tap.to(tl.float32),)
    return taps


@triton.jit
def _sum_taps(row, past, taps, offset, reset, WIDTH: tl.constexpr):
    """The weighted sum at one token, and the inputs in it, newest first; at a reset (None: there are none) no past."""
    total = offset + row * taps[0]
    seen = (row,)
    for back in tl.static_range(1, WIDTH):
        earlier = past[back - 1]
        if reset is not None:
            earlier = tl.where(reset, 0.0, earlier)
        total += earlier * taps[back]
        seen = seen + (earlier,)
    return total, seen


@triton.jit
def _give_back(d_total, d_own, taps, seen, d_taps, pending, visible, reset, WIDTH: tl.constexpr):
    """What the gradient of one token's sum adds to those of the taps and of the inputs in it.

    Returns the taps' sums, the gradients so far of the inputs 0, 1, … tokens back, and which of 1, … are still seen.
    """
    sums = ()
    moved = (d_total * taps[0],)
    still = ()
    for back in tl.static_range(WIDTH):
        sums = sums + (d_taps[back] + d_own * seen[back],)
        if back > 0:
            part = d_total * taps[back]
            if reset is not None:
                through = visible[back - 1] & (reset == 0)
                part = tl.where(through, part, 0.0)
                still = still + (through,)
            moved = moved + (pending[back - 1] + part,)
    return sums, moved, still


@triton.jit
def _visible(resets, start, always, WIDTH: tl.constexpr):
    """Entry j: no document starts after the input j + 1 tokens back, up to the token before `start`."""
    visible = ()
    open_past = always
    for back in tl.static_range(1, WIDTH):
        visible = visible + (open_past,)
        if resets is not None:
            open_past = open_past & (tl.load(resets - back, mask=start >= back, other=0) == 0)
    return visible


@triton.jit
def forward_kernel(
    x, weight, bias, initial, resets, y, length, channels, segment, x_b, x_l, initial_b, initial_s,
    WIDTH: tl.constexpr, SILU: tl.constexpr, HAS_INITIAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y (B, L, C); a program has `segment` tokens of BLOCK channels and asks for ROWS of them at a time."""
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_c = c < channels
    start = tl.program_id(1) * segment
    left = min(segment, length - start)
    b = tl.program_id(2).to(tl.int64)
    first = b * length + start
    x += b * x_b + start.to(tl.int64) * x_l + c
    y += first * channels + c
    initial += b * initial_b + c
    if resets is not None:
        resets += first
    taps = _taps(weight, c, channels, WIDTH)
    offset = tl.load(bias + c, mask=in_c, other=0.0).to(tl.float32)
    past = _past(x, x_l, initial, initial_s, resets, start, in_c, WIDTH, HAS_INITIAL)
    for step in range(0, left, ROWS):
        rows = ()
        for i in tl.static_range(ROWS):
            rows = rows + (tl.load(x + (step + i) * x_l, mask=in_c & (step + i < left), other=0.0),)
        for i in tl.static_range(ROWS):
            reset = None if resets is None else tl.load(resets + step + i, mask=step + i < left, other=0) != 0
            total, seen = _sum_taps(rows[i].to(tl.float32), past, taps, offset, reset, WIDTH)
            past = seen[: WIDTH - 1]
            if SILU:
                total *= sigmoid(total)
            tl.store(y + (step + i) * channels, total.to(y.dtype.element_ty), mask=in_c & (step + i < left))


@triton.jit
def backward_kernel(
    x, weight, bias, initial, resets, dy, more_dy, dx, y, d_initial, sums,
    length, channels, segment, x_b, x_l, initial_b, initial_s, dy_b, dy_l, dx_b, dx_l,
    WIDTH: tl.constexpr, SILU: tl.constexpr, HAS_INITIAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of x and the initial inputs, and this program's part of the weight's and the bias's, (P, C · (W + 1)).

    The outputs' gradient is `dy`, plus `more_dy` (B, L, C) where that is given. `y`, where given, gets the outputs.
    """
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_c = c < channels
    start = tl.program_id(1) * segment
    own = min(segment, length - start)
    left = min(own + WIDTH - 1, length - start)
    b = tl.program_id(2).to(tl.int64)
    first = b * length + start
    x += b * x_b + start.to(tl.int64) * x_l + c
    dy += b * dy_b + start.to(tl.int64) * dy_l + c
    dx += b * dx_b + start.to(tl.int64) * dx_l + c
    if more_dy is not None:
        more_dy += first * channels + c
    if y is not None:
        y += first * channels + c
    initial += b * initial_b + c
    d_initial += b * (WIDTH - 1) * channels + c
    sums += (b * tl.num_programs(1) + tl.program_id(1)) * (WIDTH + 1) * channels
    if resets is not None:
        resets += first
    taps = _taps(weight, c, channels, WIDTH)
    offset = tl.load(bias + c, mask=in_c, other=0.0).to(tl.float32)
    past = _past(x, x_l, initial, initial_s, resets, start, in_c, WIDTH, HAS_INITIAL)
    always = start >= 0
    visible = _visible(resets, start, always, WIDTH)
    d_bias = tl.zeros([BLOCK], tl.float32)
    d_taps = (d_bias,)
    # pending[j] is the gradient so far of the input j + 1 tokens back.
    pending = ()
    for _ in tl.static_range(1, WIDTH):
        d_taps = d_taps + (d_bias,)
        pending = pending + (d_bias,)
    # The last steps, past the segment, finish the gradients of its last W − 1 inputs.
    for step in range(0, own + WIDTH - 1, ROWS):
        rows = ()
        d_rows = ()
        more_rows = ()
        for i in tl.static_range(ROWS):
            there = in_c & (step + i < left)
            rows = rows + (tl.load(x + (step + i) * x_l, mask=there, other=0.0),)
            d_rows = d_rows + (tl.load(dy + (step + i) * dy_l, mask=there, other=0.0),)
            if more_dy is not None:
                more_rows = more_rows + (tl.load(more_dy + (step + i) * channels, mask=there, other=0.0),)
        for i in tl.static_range(ROWS):
            t = step + i
            d_total = d_rows[i].to(tl.float32)
            if more_dy is not None:
                d_total += more_rows[i].to(tl.float32)
            reset = None if resets is None else tl.load(resets + t, mask=t < left, other=0) != 0
            total, seen = _sum_taps(rows[i].to(tl.float32), past, taps, offset, reset, WIDTH)
            if SILU:
                gate = sigmoid(total)
                d_total *= gate * (1.0 + total * (1.0 - gate))
                total *= gate
            if y is not None:
                tl.store(y + t * channels, total.to(y.dtype.element_ty), mask=in_c & (t < own))
            d_own = tl.where(t < own, d_total, 0.0)
            d_bias += d_own
            d_taps, moved, still = _give_back(d_total, d_own, taps, seen, d_taps, pending, visible, reset, WIDTH)
            past = seen[: WIDTH - 1]
            pending = moved[: WIDTH - 1]
            if resets is not None:
                visible = ((always,) + still)[: WIDTH - 1]
            done = t - (WIDTH - 1)
            finished = moved[WIDTH - 1]
            tl.store(dx + done * dx_l, finished.to(dx.dtype.element_ty), mask=in_c & (done >= 0) & (done < own))
            if HAS_INITIAL:
                given = in_c & (start == 0) & (done < 0)
                tl.store(d_initial + t * channels, finished.to(d_initial.dtype.element_ty), mask=given)
    for back in tl.static_range(WIDTH):
        tl.store(sums + c * WIDTH + (WIDTH - 1 - back), d_taps[back], mask=in_c)
    tl.store(sums + WIDTH * channels + c, d_bias, mask=in_c)
