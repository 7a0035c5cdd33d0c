# mypy: ignore-errors
# Triton compiles these functions from a subset of Python: no annotations, constants tested by themselves.
"""Mamba-2's scan in chunks, backward: all gradients of one chunk from the states on both of its sides.

With u = dt x, L_ij = 2^(a_i − a_j) for i ≥ j, h the state before the chunk and g the gradient of the one after it:

    du_j = Σ_i (B_j·C_i) L_ij dy_i + 2^(a_Q − a_j) g B_j
    dB_j = Σ_i (x_j·dy_i) L_ij dt_j C_i + 2^(a_Q − a_j) gᵀ u_j
    dC_i = Σ_j (x_j·dy_i) L_ij dt_j B_j + 2^(a_i) hᵀ dy_i

The first sums of dB and dC run over the heads of a group before their products. What a log decay changes is told by
what runs over it: W_ij = (x_j·dy_i)(B_j·C_i) L_ij, and the like with h and g. Its sums over rows and columns come from
the same float32 numbers, so that what should cancel between them does.
Rows are j here and columns i. Shapes and v = head · SPLIT + block as in ssd.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sidewinder.ops.kernels.activations import sigmoid
from sidewinder.ops.kernels.ssd import NUMBERS


@triton.jit(do_not_specialize=NUMBERS)
def input_gradient_kernel(
    x, dy, B, C, skip, decay, step, segment, leaving, dx, both, given, gained, ends, d_skip, length, chunks, heads,
    per_group, together, x_b, x_h, dy_b, dy_h, B_b, B_g, C_b, C_g, dx_b,
    x_l: tl.constexpr, dy_l: tl.constexpr, B_l: tl.constexpr, C_l: tl.constexpr, dx_l: tl.constexpr,
    SPLIT: tl.constexpr, SIZE: tl.constexpr, STATE: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of x of one chunk and `together` blocks of heads of one group; and for the other kernels:

    `both` (…, Q, Q), the first sum of dB and dC over these heads; (B, V, tokens): `given`_j, what token j gives to all
    outputs and to the last state, a unit of dt; `gained`_i, what output i gains from the chunk's tokens;
    (B, chunks, V): `ends`, what the last state gains from them; `d_skip`.
    """
    kind = x.dtype.element_ty
    c = tl.program_id(0)
    first = tl.program_id(1) * together
    b = tl.program_id(2).to(tl.int64)
    group = first // (per_group * SPLIT)
    n = tl.arange(0, N)
    row = tl.arange(0, Q)[:, None]
    start = (c * Q).to(tl.int64)
    t = c * Q + tl.arange(0, Q)
    x += b * x_b + start * x_l
    dy += b * dy_b + start * dy_l
    dx += b * dx_b + start * dx_l
    there_QN = (t < length)[:, None] & (n < STATE)[None, :]
    B_QN = tl.load(B + b * B_b + start * B_l + group * B_g + (row * B_l + n[None, :]), mask=there_QN, other=0.0)
    C_QN = tl.load(C + b * C_b + start * C_l + group * C_g + (row * C_l + n[None, :]), mask=there_QN, other=0.0)
    near_QQ = tl.dot(B_QN, tl.trans(C_QN), input_precision=PRECISION)
    seen_QQ = t[None, :] >= t[:, None]
    if segment is not None:
        segment_Q = tl.load(segment + b * chunks * Q + t)
        last = tl.load(segment + b * chunks * Q + c * Q + Q - 1)
        seen_QQ = seen_QQ & (segment_Q[:, None] == segment_Q[None, :])
    near_QQ = tl.where(seen_QQ, near_QQ, 0.0).to(kind)
    both_QQ = tl.zeros([Q, Q], tl.float32)
    for number in range(together):
        v = first + number
        h = v // SPLIT
        p = v % SPLIT * P + tl.arange(0, P)
        there_QP = (t < length)[:, None] & (p < SIZE)[None, :]
        decay_Q = tl.load(decay + (b * heads + h) * chunks * Q + t)
        step_Q = tl.load(step + (b * heads + h) * chunks * Q + t)
        total = tl.load(decay + (b * heads + h) * chunks * Q + c * Q + Q - 1)
        x_QP = tl.load(x + h * x_h + (row * x_l + p[None, :]), mask=there_QP, other=0.0)
        dy_QP = tl.load(dy + h * dy_h + (row * dy_l + p[None, :]), mask=there_QP, other=0.0)
        state = leaving + ((b * chunks + c) * heads + h) * SIZE * STATE + (p[:, None] * STATE + n[None, :])
        g_PN = tl.load(state, mask=(p < SIZE)[:, None] & (n < STATE)[None, :], other=0.0)
        after_Q = tl.exp2(total - decay_Q)
        if segment is not None:
            after_Q = tl.where(segment_Q == last, after_Q, 0.0)

        pairs_QQ = tl.dot(x_QP, tl.trans(dy_QP), input_precision=PRECISION)
        left_QQ = tl.exp2(tl.minimum(decay_Q[None, :] - decay_Q[:, None], 0.0))
        mixed_QQ = near_QQ.to(tl.float32) * left_QQ
        both_QQ += pairs_QQ * left_QQ * step_Q[:, None]
        pairs_QQ *= mixed_QQ
        given_Q = tl.sum(pairs_QQ, 1)
        gained_Q = tl.sum(pairs_QQ * step_Q[:, None], 0)
        mixed_QQ = mixed_QQ.to(kind)

        du_QP = tl.dot(B_QN, tl.trans(g_PN), input_precision=PRECISION) * after_Q[:, None]
        to_state_Q = tl.sum(x_QP.to(tl.float32) * du_QP, 1)
        du_QP = tl.dot(mixed_QQ, dy_QP, du_QP, input_precision=PRECISION)
        dx_QP = du_QP * step_Q[:, None] + tl.load(skip + h).to(tl.float32) * dy_QP.to(tl.float32)
        # Without the sum, whose added part is 0, the compiler would load x and dy twice, in two layouts.
        own = tl.sum(x_QP.to(tl.float32) * (dy_QP.to(tl.float32) + 0.0 * du_QP))
        tl.store(dx + h * SIZE + (row * dx_l + p[None, :]), dx_QP.to(dx.dtype.element_ty), mask=there_QP)
        line = (b * heads * SPLIT + v) * chunks * Q + t
        tl.store(given + line, given_Q + to_state_Q)
        tl.store(gained + line, gained_Q)
        sums = (b * chunks + c) * heads * SPLIT + v
        tl.store(ends + sums, tl.sum(to_state_Q * step_Q))
        tl.store(d_skip + sums, own)
    both_QQ = tl.where(seen_QQ, both_QQ, 0.0).to(kind)
    place = (b * chunks + c) * tl.num_programs(1) + tl.program_id(1)
    tl.store(both + place * Q * Q + (row * Q + tl.arange(0, Q)[None, :]), both_QQ)


@triton.jit(do_not_specialize=NUMBERS)
def key_gradient_kernel(
    x, dy, B, C, decay, step, segment, entering, leaving, both, dB, dC, gained, ends, length, chunks, heads,
    per_group, together, x_b, x_h, dy_b, dy_h, B_b, B_g, C_b, C_g, d_part, d_b,
    x_l: tl.constexpr, dy_l: tl.constexpr, B_l: tl.constexpr, C_l: tl.constexpr, d_l: tl.constexpr,
    TRACE: tl.constexpr,
    SPLIT: tl.constexpr, SIZE: tl.constexpr, STATE: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of B and C, for the same heads; adds what outputs and last state have from h to `gained` and `ends`.

    TRACE: the sum over h ∘ g is taken as the trace of a product.
    """
    kind = dy.dtype.element_ty
    c = tl.program_id(0)
    first = tl.program_id(1) * together
    b = tl.program_id(2).to(tl.int64)
    group = first // (per_group * SPLIT)
    part = first % (per_group * SPLIT) // together
    n = tl.arange(0, N)
    row = tl.arange(0, Q)[:, None]
    start = (c * Q).to(tl.int64)
    t = c * Q + tl.arange(0, Q)
    x += b * x_b + start * x_l
    dy += b * dy_b + start * dy_l
    there_QN = (t < length)[:, None] & (n < STATE)[None, :]
    C_QN = tl.load(C + b * C_b + start * C_l + group * C_g + (row * C_l + n[None, :]), mask=there_QN, other=0.0)
    if segment is not None:
        segment_Q = tl.load(segment + b * chunks * Q + t)
        last = tl.load(segment + b * chunks * Q + c * Q + Q - 1)
    dB_QN = tl.zeros([Q, N], tl.float32)
    dC_QN = tl.zeros([Q, N], tl.float32)
    for number in range(together):
        v = first + number
        h = v // SPLIT
        p = v % SPLIT * P + tl.arange(0, P)
        there_QP = (t < length)[:, None] & (p < SIZE)[None, :]
        decay_Q = tl.load(decay + (b * heads + h) * chunks * Q + t)
        step_Q = tl.load(step + (b * heads + h) * chunks * Q + t)
        total = tl.load(decay + (b * heads + h) * chunks * Q + c * Q + Q - 1)
        before_Q = tl.exp2(decay_Q)
        after_Q = tl.exp2(total - decay_Q) * step_Q
        keep = tl.exp2(total)
        if segment is not None:
            before_Q = tl.where(segment_Q == 0, before_Q, 0.0)
            after_Q = tl.where(segment_Q == last, after_Q, 0.0)
            keep = tl.where(last == 0, keep, 0.0)
        x_QP = tl.load(x + h * x_h + (row * x_l + p[None, :]), mask=there_QP, other=0.0)
        dy_QP = tl.load(dy + h * dy_h + (row * dy_l + p[None, :]), mask=there_QP, other=0.0)
        place_PN = ((b * chunks + c) * heads + h) * SIZE * STATE
        offset_PN = p[:, None] * STATE + n[None, :]
        inside_PN = (p < SIZE)[:, None] & (n < STATE)[None, :]
        h_PN = tl.load(entering + place_PN + offset_PN, mask=inside_PN, other=0.0)
        g_PN = tl.load(leaving + place_PN + offset_PN, mask=inside_PN, other=0.0)
        dB_QN = tl.dot((x_QP.to(tl.float32) * after_Q[:, None]).to(kind), g_PN, dB_QN, input_precision=PRECISION)
        dC_QN = tl.dot((dy_QP.to(tl.float32) * before_Q[:, None]).to(kind), h_PN, dC_QN, input_precision=PRECISION)
        seen_QP = tl.dot(C_QN, tl.trans(h_PN), input_precision=PRECISION)
        gained_Q = tl.sum(seen_QP * dy_QP.to(tl.float32), 1) * before_Q
        line = gained + (b * heads * SPLIT + v) * chunks * Q + t
        tl.store(line, tl.load(line) + gained_Q)
        if TRACE:
            alike_PP = tl.dot(g_PN, tl.trans(h_PN), input_precision=PRECISION)
            alike = tl.sum(tl.where(tl.arange(0, P)[:, None] == tl.arange(0, P)[None, :], alike_PP, 0.0))
        else:
            alike = tl.sum(g_PN.to(tl.float32) * h_PN.to(tl.float32))
        sums = ends + (b * chunks + c) * heads * SPLIT + v
        tl.store(sums, tl.load(sums) + keep * alike)
    B_QN = tl.load(B + b * B_b + start * B_l + group * B_g + (row * B_l + n[None, :]), mask=there_QN, other=0.0)
    place = (b * chunks + c) * tl.num_programs(1) + tl.program_id(1)
    both_QQ = tl.load(both + place * Q * Q + (row * Q + tl.arange(0, Q)[None, :]))
    dB_QN = tl.dot(both_QQ, C_QN, dB_QN, input_precision=PRECISION)
    dC_QN = tl.dot(tl.trans(both_QQ), B_QN, dC_QN, input_precision=PRECISION)
    out = part.to(tl.int64) * d_part + b * d_b + start * d_l + group * STATE + (row * d_l + n[None, :])
    tl.store(dB + out, dB_QN.to(dB.dtype.element_ty), mask=there_QN)
    tl.store(dC + out, dC_QN.to(dC.dtype.element_ty), mask=there_QN)


@triton.jit(do_not_specialize=NUMBERS)
def finish_kernel(
    dt, bias, rates, step, given, gained, ends, d_skip, d_dt, d_bias, d_rates, d_skips, length, chunks, heads,
    dt_b, dt_l, dt_h, d_dt_b, d_dt_l,
    SPLIT: tl.constexpr, Q: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """The gradient of dt (B, L, H), and those of its bias, A and D for each chunk (B, chunks, H)."""
    c = tl.program_id(0)
    h = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    b = tl.program_id(2).to(tl.int64)
    q = tl.arange(0, Q)
    t = c * Q + q
    in_h = h < heads
    padded = chunks * Q
    step_QH = tl.load(step + (b * heads + h[None, :]) * padded + t[:, None], mask=in_h[None, :], other=0.0)
    given_QH = tl.zeros([Q, HEADS], tl.float32)
    gained_QH = tl.zeros([Q, HEADS], tl.float32)
    end_H = tl.zeros([HEADS], tl.float32)
    skip_H = tl.zeros([HEADS], tl.float32)
    for block in tl.static_range(SPLIT):
        v = (b * heads + h) * SPLIT + block
        line = v[None, :] * padded + t[:, None]
        given_QH += tl.load(given + line, mask=in_h[None, :], other=0.0)
        gained_QH += tl.load(gained + line, mask=in_h[None, :], other=0.0)
        sums = ((b * chunks + c) * heads + h) * SPLIT + block
        end_H += tl.load(ends + sums, mask=in_h, other=0.0)
        skip_H += tl.load(d_skip + sums, mask=in_h, other=0.0)
    d_decay_QH = gained_QH - step_QH * given_QH + tl.where((q == Q - 1)[:, None], end_H[None, :], 0.0)
    d_log_QH = tl.cumsum(d_decay_QH, 0, reverse=True)
    rate_H = tl.load(rates + h, mask=in_h, other=0.0).to(tl.float32)
    d_dt_QH = given_QH + rate_H[None, :] * d_log_QH
    there_QH = (t < length)[:, None] & in_h[None, :]
    token_Q1 = t.to(tl.int64)[:, None]
    out = (b * chunks + c) * heads + h
    if bias is not None:
        raw_QH = tl.load(dt + b * dt_b + token_Q1 * dt_l + h[None, :] * dt_h, mask=there_QH, other=0.0).to(tl.float32)
        d_dt_QH *= sigmoid(raw_QH + tl.load(bias + h, mask=in_h, other=0.0).to(tl.float32)[None, :])
        tl.store(d_bias + out, tl.sum(tl.where(there_QH, d_dt_QH, 0.0), 0), mask=in_h)
    tl.store(d_dt + b * d_dt_b + token_Q1 * d_dt_l + h[None, :], d_dt_QH.to(d_dt.dtype.element_ty), mask=there_QH)
    tl.store(d_rates + out, tl.sum(d_log_QH * step_QH, 0), mask=in_h)
    tl.store(d_skips + out, skip_H, mask=in_h)
