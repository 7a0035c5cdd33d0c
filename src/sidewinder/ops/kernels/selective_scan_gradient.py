# mypy: ignore-errors
# ruff: noqa: RUF005
# Triton compiles these functions from a subset of Python: no annotations, tuples by +, constants tested by themselves.
"""The selective scan's gradients of all inputs, over stretches of time whose last step comes first.

g and q are as in selective_scan_backward.py; threads, programs and buffers as in selective_scan.py.
Shapes: B batch, L length, D channels, N state size; s stretches of time; P parts of the sums over channels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sidewinder.ops.kernels.activations import sigmoid
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

EXCHANGE = tl.constexpr("""
{
.reg .pred upper16, upper8, upper4;
.reg .b32 lane, bit;
.reg .f32 kept<4>, sent<4>, got<4>;
mov.u32 lane, %laneid;
and.b32 bit, lane, 16; setp.ne.b32 upper16, bit, 0;
and.b32 bit, lane, 8; setp.ne.b32 upper8, bit, 0;
and.b32 bit, lane, 4; setp.ne.b32 upper4, bit, 0;
selp.f32 kept0, $5, $1, upper16; selp.f32 sent0, $1, $5, upper16;
selp.f32 kept1, $6, $2, upper16; selp.f32 sent1, $2, $6, upper16;
selp.f32 kept2, $7, $3, upper16; selp.f32 sent2, $3, $7, upper16;
selp.f32 kept3, $8, $4, upper16; selp.f32 sent3, $4, $8, upper16;
shfl.sync.bfly.b32 got0, sent0, 16, 31, -1;
shfl.sync.bfly.b32 got1, sent1, 16, 31, -1;
shfl.sync.bfly.b32 got2, sent2, 16, 31, -1;
shfl.sync.bfly.b32 got3, sent3, 16, 31, -1;
add.f32 kept0, kept0, got0; add.f32 kept1, kept1, got1;
add.f32 kept2, kept2, got2; add.f32 kept3, kept3, got3;
selp.f32 sent0, kept0, kept2, upper8; selp.f32 kept0, kept2, kept0, upper8;
selp.f32 sent1, kept1, kept3, upper8; selp.f32 kept1, kept3, kept1, upper8;
shfl.sync.bfly.b32 got0, sent0, 8, 31, -1;
shfl.sync.bfly.b32 got1, sent1, 8, 31, -1;
add.f32 kept0, kept0, got0; add.f32 kept1, kept1, got1;
selp.f32 sent0, kept0, kept1, upper4; selp.f32 kept0, kept1, kept0, upper4;
shfl.sync.bfly.b32 got0, sent0, 4, 31, -1;
add.f32 kept0, kept0, got0;
shfl.sync.bfly.b32 got0, kept0, 2, 31, -1;
add.f32 kept0, kept0, got0;
shfl.sync.bfly.b32 got0, kept0, 1, 31, -1;
add.f32 $0, kept0, got0;
}
""")
"""Sums of 8 values over the lanes of an NVIDIA warp: lane l gets that of value l / 4.

Half of the values go to the other half of the lanes, then a quarter, then an eighth: 9 exchanges where 8 separate sums
take 40. In the backward kernel the exchanges would otherwise be a third of all instructions.
"""


@triton.jit
def _store_sums(rows, start, a_part, EXCHANGED: tl.constexpr, BLOCK: tl.constexpr):
    """Sums 8 rows over their channels and stores the sums from `start` on.

    EXCHANGED: by `EXCHANGE`, two channels a thread, and the sums of a further warp lie `a_part` further.
    """
    if EXCHANGED:
        threads = ()
        for i in tl.static_range(8):
            threads = threads + (tl.sum(tl.reshape(rows[i], [BLOCK // 2, 2]), axis=1),)
        total = tl.inline_asm_elementwise(
            EXCHANGE, "=f,f,f,f,f,f,f,f,f", threads, dtype=tl.float32, is_pure=False, pack=1
        )
        thread = tl.arange(0, BLOCK // 2)
        place = thread // 32 * a_part + thread % 32 // 4
        tl.store(start + place, total, mask=thread % 4 == 0)
    else:
        first = tl.join(tl.join(rows[0], rows[4]), tl.join(rows[2], rows[6]))
        second = tl.join(tl.join(rows[1], rows[5]), tl.join(rows[3], rows[7]))
        total = tl.reshape(tl.sum(tl.join(first, second), axis=0), [8])
        tl.store(start + tl.arange(0, 8), total)


@triton.jit
def _begin_rows(dt_rows, x_rows, dy_rows, d_skip_d, ROWS: tl.constexpr):
    """u = dt · x, zeros to sum its gradient in, and the gradient of D with these rows added."""
    u_rows = ()
    zeros = ()
    for i in tl.static_range(ROWS):
        u_rows = u_rows + (dt_rows[i] * x_rows[i],)
        zeros = zeros + (tl.zeros_like(d_skip_d),)
        d_skip_d += dy_rows[i] * x_rows[i]
    return u_rows, zeros, d_skip_d


@triton.jit
def _forward_rows(decays, u_rows, dy_rows, words, h, ROWS: tl.constexpr):
    """The state before the first row and after each, and what each row adds to the gradient of C."""
    h_rows = (h,)
    dc_rows = ()
    for i in tl.static_range(ROWS):
        h = decays[i] * h + u_rows[i] * low(words[i])
        h_rows = h_rows + (h,)
        dc_rows = dc_rows + (dy_rows[i] * h,)
    return h_rows, dc_rows


@triton.jit
def _backward_rows(
    decays, dt_rows, u_rows, dy_rows, h_rows, words, coefficient, later, du_rows, da_rows, d_coefficient,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Last row first: q of the first row, the gradient of A2, those of u = dt · x and of dt · A2 summed over states so
    far, and what each row adds to the gradient of B."""
    db_rows = ()
    du_next = ()
    da_next = ()
    for i in tl.static_range(ROWS - 1, -1, -1):
        g = dy_rows[i] * high(words[i]) + later
        db_rows = (g * u_rows[i],) + db_rows
        du_next = (du_rows[i] + g * low(words[i]),) + du_next
        later = decays[i] * g
        exponent = later * h_rows[i]
        da_next = (da_rows[i] + exponent * coefficient,) + da_next
        d_coefficient += exponent * dt_rows[i]
    return later, d_coefficient, du_next, da_next, db_rows


@triton.jit
def _store_input_gradients(
    x, x_l, dt, dt_l, bias_d, skip_d, dt_rows, dy_rows, du_rows, da_rows, dx, d_dt, d_bias, per_state, left, in_d,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of x and dt, all states summed; adds these rows to that of the bias of dt."""
    bias_sum = tl.zeros_like(skip_d)
    for i in tl.static_range(ROWS):
        here = in_d & (i < left)
        x_row = tl.load(x + i * x_l, mask=here, other=0.0).to(tl.float32)
        # 0.693… = ln 2: exp2(dt · A2) has the derivative ln 2 · A2 · exp2(…) in dt.
        d_dt_row = x_row * du_rows[i] + 0.6931471805599453 * da_rows[i]
        if bias_d is not None:
            dt_row = tl.load(dt + i * dt_l, mask=here, other=0.0).to(tl.float32)
            d_dt_row *= sigmoid(dt_row + bias_d)
            bias_sum += tl.where(i < left, d_dt_row, 0.0)
        tl.store(d_dt + i * per_state, d_dt_row.to(d_dt.dtype.element_ty), mask=here)
        dx_row = dt_rows[i] * du_rows[i] + skip_d * dy_rows[i]
        tl.store(dx + i * per_state, dx_row.to(dx.dtype.element_ty), mask=here)
    if bias_d is not None:
        tl.store(d_bias, tl.load(d_bias, mask=in_d, other=0.0) + bias_sum, mask=in_d)


@triton.jit
def gradient_kernel(
    x, dt, dt_bias, dy, a2, bc, skip, resets, states, q, dx, d_dt, d_bias, d_a2, d_b, d_c, d_skip,
    begin, end, length, padded, channels, state_size, stretch, x_b, x_l, dt_b, dt_l, dy_b, dy_l,
    EXCHANGED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All gradients of the tokens `begin` … `end`, last step first, from the state before each step (`states`).

    q (B, s, N, D) holds the gradient of the state leaving each stretch and gets that of the state entering it.
    d_a2 (B, s, N, D), d_bias and d_skip (B, s, D) are added to; d_b, d_c (P, B, N, padded tokens) are written, a
    part for each program or, if EXCHANGED, for each warp.
    """
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_d = d < channels
    s = tl.program_id(1)
    stretches = tl.num_programs(1)
    b = tl.program_id(2).to(tl.int64)
    start = begin + s * stretch
    stop = min(start + stretch, end)
    per_state = long_(channels)
    x += b * x_b + d
    dt += b * dt_b + d
    dy += b * dy_b + d
    own = b * length * per_state + d
    bc += b * state_size * padded
    sums_padded = tl.cdiv(end - begin, ROWS) * ROWS
    a_part = long_(tl.num_programs(2)) * state_size * sums_padded
    part = tl.program_id(0) * (BLOCK // 64 if EXCHANGED else 1)
    d_b += part * a_part + b * state_size * sums_padded
    d_c += part * a_part + b * state_size * sums_padded
    if resets is not None:
        resets += b * length
    stretch_place = (b * stretches + s) * state_size * per_state + d
    q += stretch_place
    d_a2 += stretch_place
    a_stretch = (b * stretches + s) * per_state + d
    skip_d = tl.load(skip + d, mask=in_d, other=0.0).to(tl.float32)
    d_skip_d = tl.load(d_skip + a_stretch, mask=in_d, other=0.0)
    all_steps = tl.cdiv(end - begin, ROWS)
    steps = tl.cdiv(stop - start, ROWS)
    for back in range(steps):
        token = start + (steps - 1 - back) * ROWS
        left = stop - token
        at = long_(token)
        bias_d = None if dt_bias is None else tl.load(dt_bias + d, mask=in_d, other=0.0).to(tl.float32)
        entering = states + (b * all_steps + (token - begin) // ROWS) * state_size * per_state + d
        dt_rows = load_steps(dt + at * dt_l, dt_l, bias_d, left, in_d, ROWS)
        x_rows = load_rows(x + at * x_l, x_l, left, in_d, ROWS)
        dy_rows = load_rows(dy + at * dy_l, dy_l, left, in_d, ROWS)
        u_rows, du_rows, d_skip_d = _begin_rows(dt_rows, x_rows, dy_rows, d_skip_d, ROWS)
        da_rows = du_rows
        next_words = load_words(bc + at, ROWS)
        next_coefficient = tl.load(a2 + d, mask=in_d, other=0.0)
        next_h = tl.load(entering, mask=in_d, other=0.0)
        next_later = tl.load(q, mask=in_d, other=0.0)
        next_sum = tl.load(d_a2, mask=in_d, other=0.0)
        for n in range(state_size):
            words, coefficient, h, later, d_coefficient = next_words, next_coefficient, next_h, next_later, next_sum
            ahead = min(n + 1, state_size - 1)
            next_words = load_words(bc + at + ahead * padded, ROWS)
            next_coefficient = tl.load(a2 + ahead * channels + d, mask=in_d, other=0.0)
            next_h = tl.load(entering + ahead * channels, mask=in_d, other=0.0)
            next_later = tl.load(q + ahead * channels, mask=in_d, other=0.0)
            next_sum = tl.load(d_a2 + ahead * channels, mask=in_d, other=0.0)
            order(state_size < 0, next_h, a2)
            decays = decays_of(dt_rows, coefficient, None if resets is None else resets + at, left, ROWS)
            h_rows, dc_rows = _forward_rows(decays, u_rows, dy_rows, words, h, ROWS)
            _store_sums(dc_rows, d_c + (token - begin) + n * sums_padded, a_part, EXCHANGED, BLOCK)
            later, d_coefficient, du_rows, da_rows, db_rows = _backward_rows(
                decays, dt_rows, u_rows, dy_rows, h_rows, words, coefficient, later, du_rows, da_rows, d_coefficient,
                ROWS,
            )  # fmt: skip
            _store_sums(db_rows, d_b + (token - begin) + n * sums_padded, a_part, EXCHANGED, BLOCK)
            tl.store(q + n * channels, later, mask=in_d)
            tl.store(d_a2 + n * channels, d_coefficient, mask=in_d)
        here = own + at * per_state
        _store_input_gradients(
            x + at * x_l, x_l, dt + at * dt_l, dt_l, bias_d, skip_d, dt_rows, dy_rows, du_rows, da_rows,
            dx + here, d_dt + here, d_bias + a_stretch, per_state, left, in_d, ROWS,
        )  # fmt: skip
    tl.store(d_skip + a_stretch, d_skip_d, mask=in_d)
