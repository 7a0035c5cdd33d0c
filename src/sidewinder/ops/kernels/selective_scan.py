# mypy: ignore-errors
# ruff: noqa: RUF005
# Triton compiles these functions from a subset of Python: no annotations, tuples by +, constants tested by themselves.
"""The selective scan. A thread owns whole channels and walks along time with its state in registers.

A program covers BLOCK channels and a stretch of time, ROWS tokens at a step; at each step it runs over the N states,
so that any N fits. What crosses programs or steps lies in float32 buffers (…, N, D): a state entering a stretch, or its
gradient q, that of the state before a token. Decays are exp2(dt · A2) with A2 = A / ln 2; a reset makes them 0.
B and C travel as one 64-bit word a token and state (B low, C high), since every thread loads each: (B, N, L) with L
padded to whole steps. With `dt_bias` (D) the step size is softplus(dt + dt_bias), made again by every kernel.
Shapes: B batch, L length, D channels, N state size; s stretches of time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sidewinder.ops.kernels.activations import gate
from sidewinder.ops.kernels.selective_scan_rows import (
    decays_of,
    high,
    load_rows,
    load_steps,
    load_words,
    long_,
    low,
    order,
)


@triton.jit
def own_states_kernel(
    x, dt, dt_bias, a2, bc, resets, states, dt_sums,
    stretches, length, padded, channels, state_size, stretch, states_a_program, x_b, x_l, dt_b, dt_l,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The state that each whole stretch reaches from 0 (B, s, N, D), and its sum of dt (B, s, D).

    The sum is infinite where a reset lies in the stretch.
    """
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_d = d < channels
    s = tl.program_id(1) % stretches
    first_n = tl.program_id(1) // stretches * states_a_program
    last_n = min(first_n + states_a_program, state_size)
    b = tl.program_id(2).to(tl.int64)
    start = s * stretch
    x += b * x_b + d
    dt += b * dt_b + d
    bc += b * state_size * padded
    if resets is not None:
        resets += b * length
    per_state = long_(channels)
    states += ((b * stretches + s) * state_size) * per_state + d
    bias_d = None if dt_bias is None else tl.load(dt_bias + d, mask=in_d, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    crossed = start < 0
    for token in range(start, start + stretch, ROWS):
        at = long_(token)
        dt_rows = load_steps(dt + at * dt_l, dt_l, bias_d, ROWS, in_d, ROWS)
        x_rows = load_rows(x + at * x_l, x_l, ROWS, in_d, ROWS)
        u_rows = ()
        for i in tl.static_range(ROWS):
            u_rows = u_rows + (dt_rows[i] * x_rows[i],)
            total += dt_rows[i]
            if resets is not None:
                crossed = crossed | (tl.load(resets + at + i) != 0)
        # What the next state needs is loaded before this one is computed.
        known = in_d & (token > start)
        next_words = load_words(bc + at + first_n * padded, ROWS)
        next_coefficient = tl.load(a2 + first_n * channels + d, mask=in_d, other=0.0)
        next_h = tl.load(states + first_n * channels, mask=known, other=0.0)
        for n in range(first_n, last_n):
            words, coefficient, h = next_words, next_coefficient, next_h
            ahead = min(n + 1, last_n - 1)
            next_words = load_words(bc + at + ahead * padded, ROWS)
            next_coefficient = tl.load(a2 + ahead * channels + d, mask=in_d, other=0.0)
            next_h = tl.load(states + ahead * channels, mask=known, other=0.0)
            order(state_size < 0, next_h, a2)
            decays = decays_of(dt_rows, coefficient, None if resets is None else resets + at, ROWS, ROWS)
            for i in tl.static_range(ROWS):
                h = decays[i] * h + u_rows[i] * low(words[i])
            tl.store(states + n * channels, h, mask=in_d)
    total = tl.where(crossed, float("inf"), total)
    tl.store(dt_sums + (b * stretches + s) * per_state + d, total, mask=in_d & (first_n == 0))


@triton.jit
def step_states_kernel(
    x, dt, dt_bias, a2, bc, entering, resets, states,
    begin, end, length, padded, channels, state_size, stretch, states_a_program, x_b, x_l, dt_b, dt_l,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The state before every step of the tokens `begin` … `end`, (B, steps, N, D).

    `entering` (B, s, N, D) holds the state entering each stretch of them.
    """
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_d = d < channels
    stretches = tl.cdiv(end - begin, stretch)
    s = tl.program_id(1) % stretches
    first_n = tl.program_id(1) // stretches * states_a_program
    last_n = min(first_n + states_a_program, state_size)
    b = tl.program_id(2).to(tl.int64)
    start = begin + s * stretch
    stop = min(start + stretch, end)
    x += b * x_b + d
    dt += b * dt_b + d
    bc += b * state_size * padded
    if resets is not None:
        resets += b * length
    per_state = long_(channels)
    before = entering + ((b * stretches + s) * state_size) * per_state + d
    steps = tl.cdiv(end - begin, ROWS)
    states += ((b * steps + s * (stretch // ROWS)) * state_size) * per_state + d
    bias_d = None if dt_bias is None else tl.load(dt_bias + d, mask=in_d, other=0.0).to(tl.float32)
    for token in range(start, stop, ROWS):
        left = stop - token
        at = long_(token)
        dt_rows = load_steps(dt + at * dt_l, dt_l, bias_d, left, in_d, ROWS)
        x_rows = load_rows(x + at * x_l, x_l, left, in_d, ROWS)
        u_rows = ()
        for i in tl.static_range(ROWS):
            u_rows = u_rows + (dt_rows[i] * x_rows[i],)
        next_words = load_words(bc + at + first_n * padded, ROWS)
        next_coefficient = tl.load(a2 + first_n * channels + d, mask=in_d, other=0.0)
        next_h = tl.load(before + first_n * channels, mask=in_d, other=0.0)
        for n in range(first_n, last_n):
            words, coefficient, h = next_words, next_coefficient, next_h
            ahead = min(n + 1, last_n - 1)
            next_words = load_words(bc + at + ahead * padded, ROWS)
            next_coefficient = tl.load(a2 + ahead * channels + d, mask=in_d, other=0.0)
            next_h = tl.load(before + ahead * channels, mask=in_d, other=0.0)
            order(state_size < 0, next_h, a2)
            decays = decays_of(dt_rows, coefficient, None if resets is None else resets + at, left, ROWS)
            tl.store(states + n * channels, h, mask=in_d & (token == start))
            for i in tl.static_range(ROWS):
                h = decays[i] * h + u_rows[i] * low(words[i])
            tl.store(states + (state_size + n) * channels, h, mask=in_d & (token + ROWS < stop))
        states += state_size * per_state
        before = states


@triton.jit
def chain_kernel(
    a2, dt_sums, incoming, parts, entering, channels, state_size, stretches, REVERSE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """What comes in to each stretch, `entering` (B, s, N, D), from what comes in to the first, `incoming` (B, N, D).

    `parts` (B, s − 1, N, D) and `dt_sums` (B, s − 1, D): what each stretch but the last adds by itself. For REVERSE the
    order of the stretches is turned round, so the first has no part.
    """
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_d = d < channels
    n = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    per_state = long_(channels)
    coefficient = tl.load(a2 + n * per_state + d, mask=in_d, other=0.0)
    carried = tl.load(incoming + (b * state_size + n) * per_state + d, mask=in_d, other=0.0)
    for i in range(stretches):
        s = stretches - 1 - i if REVERSE else i
        tl.store(entering + ((b * stretches + s) * state_size + n) * per_state + d, carried, mask=in_d)
        here = in_d & (i < stretches - 1)
        place = b * (stretches - 1) + (s - 1 if REVERSE else s)
        own = tl.load(parts + (place * state_size + n) * per_state + d, mask=here, other=0.0)
        total = tl.load(dt_sums + place * per_state + d, mask=here, other=0.0)
        decay = tl.where(total == float("inf"), 0.0, tl.exp2(coefficient * total))
        carried = own + decay * carried


@triton.jit
def output_kernel(
    x, dt, dt_bias, a2, bc, skip, z, resets, states, saved, y,
    length, padded, channels, state_size, stretch, save_every, x_b, x_l, dt_b, dt_l, z_b, z_l,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Outputs y (B, L, D), times silu(z) where there is a gate. `saved` (B, L / save_every, N, D) gets the state before
    every `save_every` tokens; `states` (B, s, N, D) holds the state entering each stretch and gets the one leaving it.
    """
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_d = d < channels
    s = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    start = s * stretch
    stop = min(start + stretch, length)
    x += b * x_b + d
    dt += b * dt_b + d
    bc += b * state_size * padded
    if resets is not None:
        resets += b * length
    per_state = long_(channels)
    y += b * length * per_state + d
    states += ((b * tl.num_programs(1) + s) * state_size) * per_state + d
    saved += (b * tl.cdiv(length, save_every) * state_size) * per_state + d
    skip_d = tl.load(skip + d, mask=in_d, other=0.0).to(tl.float32)
    bias_d = None if dt_bias is None else tl.load(dt_bias + d, mask=in_d, other=0.0).to(tl.float32)
    for token in range(start, stop, ROWS):
        left = stop - token
        at = long_(token)
        dt_rows = load_steps(dt + at * dt_l, dt_l, bias_d, left, in_d, ROWS)
        x_rows = load_rows(x + at * x_l, x_l, left, in_d, ROWS)
        u_rows = ()
        y_rows = ()
        for i in tl.static_range(ROWS):
            u_rows = u_rows + (dt_rows[i] * x_rows[i],)
            y_rows = y_rows + (skip_d * x_rows[i],)
        place = long_(token // save_every) * state_size * per_state
        next_words = load_words(bc + at, ROWS)
        next_coefficient = tl.load(a2 + d, mask=in_d, other=0.0)
        next_h = tl.load(states, mask=in_d, other=0.0)
        for n in range(state_size):
            words, coefficient, h = next_words, next_coefficient, next_h
            ahead = min(n + 1, state_size - 1)
            next_words = load_words(bc + at + ahead * padded, ROWS)
            next_coefficient = tl.load(a2 + ahead * channels + d, mask=in_d, other=0.0)
            next_h = tl.load(states + ahead * channels, mask=in_d, other=0.0)
            order(state_size < 0, next_h, a2)
            tl.store(saved + place + n * channels, h, mask=in_d & (token % save_every == 0))
            decays = decays_of(dt_rows, coefficient, None if resets is None else resets + at, left, ROWS)
            sums = ()
            for i in tl.static_range(ROWS):
                h = decays[i] * h + u_rows[i] * low(words[i])
                sums = sums + (y_rows[i] + h * high(words[i]),)
            y_rows = sums
            tl.store(states + n * channels, h, mask=in_d)
        z_rows = None if z is None else load_rows(z + b * z_b + at * z_l + d, z_l, left, in_d, ROWS)
        for i in tl.static_range(ROWS):
            y_row = y_rows[i] if z is None else y_rows[i] * gate(z_rows[i])
            tl.store(y + (at + i) * per_state, y_row.to(y.dtype.element_ty), mask=in_d & (i < left))
