# mypy: ignore-errors
# Triton compiles these functions from a subset of Python: no annotations, tuples by +, constants tested by themselves.
"""What the selective scan's gradients need first: those of the gate, and of the state over stretches of time.

With g the gradient of the state after a token, and q that of the state before it: g[t] = C[t] dy[t] + q[t+1] and
q[t] = exp(dt[t] A) g[t], last step first. Threads, programs and buffers are as in selective_scan.py.
Shapes: B batch, L length, D channels, N state size; s stretches of time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sidewinder.ops.kernels.activations import gate, gate_gradient
from sidewinder.ops.kernels.selective_scan_rows import decays_of, high, load_rows, load_steps, load_words, long_, order


@triton.jit
def gate_kernel(dy, z, y, dy_own, dz, length, channels, dy_b, dy_l, z_b, z_l, BLOCK: tl.constexpr):
    """Where a gate follows the scan: the gradient of its input, `dy_own`, and that of z, from the gated output `y`.

    The scan's input to the gate is got back from `y`, so that nothing else has to be kept.
    """
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_d = d < channels
    token = tl.program_id(0).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    here = (b * length + token) * channels + d
    dy_row = tl.load(dy + b * dy_b + token * dy_l + d, mask=in_d, other=0.0).to(tl.float32)
    z_row = tl.load(z + b * z_b + token * z_l + d, mask=in_d, other=0.0).to(tl.float32)
    y_row = tl.load(y + here, mask=in_d, other=0.0).to(tl.float32)
    tl.store(dy_own + here, (dy_row * gate(z_row)).to(dy_own.dtype.element_ty), mask=in_d)
    tl.store(dz + here, (dy_row * gate_gradient(z_row, y_row)).to(dz.dtype.element_ty), mask=in_d)


@triton.jit
def adjoint_kernel(
    dt, dt_bias, dy, a2, bc, resets, q, dt_sums,
    begin, end, length, padded, channels, state_size, stretch, states_a_program, dt_b, dt_l, dy_b, dy_l,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What each stretch of the tokens `begin` … `end` adds by itself to the gradient of the state entering it.

    Writes q (B, s, N, D) and the sum of dt (B, s, D), infinite across a reset.
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
    dt += b * dt_b + d
    dy += b * dy_b + d
    bc += b * state_size * padded
    if resets is not None:
        resets += b * length
    per_state = long_(channels)
    q += ((b * stretches + s) * state_size) * per_state + d
    bias_d = None if dt_bias is None else tl.load(dt_bias + d, mask=in_d, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    crossed = start < 0
    steps = tl.cdiv(stop - start, ROWS)
    for step in range(steps):
        token = start + (steps - 1 - step) * ROWS
        left = stop - token
        at = long_(token)
        dt_rows = load_steps(dt + at * dt_l, dt_l, bias_d, left, in_d, ROWS)
        dy_rows = load_rows(dy + at * dy_l, dy_l, left, in_d, ROWS)
        for i in tl.static_range(ROWS):
            total += dt_rows[i]
            if resets is not None:
                crossed = crossed | (tl.load(resets + at + i, mask=i < left, other=0) != 0)
        next_words = load_words(bc + at + first_n * padded, ROWS)
        next_coefficient = tl.load(a2 + first_n * channels + d, mask=in_d, other=0.0)
        next_later = tl.load(q + first_n * channels, mask=in_d & (step > 0), other=0.0)
        for n in range(first_n, last_n):
            words, coefficient, later = next_words, next_coefficient, next_later
            ahead = min(n + 1, last_n - 1)
            next_words = load_words(bc + at + ahead * padded, ROWS)
            next_coefficient = tl.load(a2 + ahead * channels + d, mask=in_d, other=0.0)
            next_later = tl.load(q + ahead * channels, mask=in_d & (step > 0), other=0.0)
            order(state_size < 0, next_later, a2)
            decays = decays_of(dt_rows, coefficient, None if resets is None else resets + at, left, ROWS)
            for i in tl.static_range(ROWS - 1, -1, -1):
                later = decays[i] * (later + dy_rows[i] * high(words[i]))
            tl.store(q + n * channels, later, mask=in_d)
    total = tl.where(crossed, float("inf"), total)
    tl.store(dt_sums + (b * stretches + s) * per_state + d, total, mask=in_d & (first_n == 0))
