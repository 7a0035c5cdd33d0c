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


@triton.jit
def gradient_kernel(
    x,
    dy,
    B,
    C,
    skip,
    decay,
    step,
    segment,
    entering,
    leaving,
    dx,
    dB,
    dC,
    gained,
    given,
    ends,
    d_skip,
    length,
    chunks,
    heads,
    per_group,
    together,
    x_b,
    x_l,
    x_h,
    dy_b,
    dy_l,
    dy_h,
    B_b,
    B_l,
    B_g,
    C_b,
    C_l,
    C_g,
    dx_b,
    dx_l,
    dB_part,
    dB_b,
    dB_l,
    SPLIT: tl.constexpr,
    SIZE: tl.constexpr,
    STATE: tl.constexpr,
    Q: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of x, B and C of one chunk and `together` blocks of heads of one group, and sums for finish_kernel.

    (B, V, tokens): `given`_j, what token j gives to all outputs and to the last state, a unit of dt; `gained`_i, what
    output i gains from all inputs and from h; (B, chunks, V): `ends`, what the last state keeps of h and gains; `d_skip`.
    """
    kind = x.dtype.element_ty
    c = tl.program_id(0)
    first = tl.program_id(1) * together
    b = tl.program_id(2).to(tl.int64)
    group = first // (per_group * SPLIT)
    part = first % (per_group * SPLIT) // together
    blocks = heads * SPLIT
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
    dB_QN = tl.zeros([Q, N], tl.float32)
    dC_QN = tl.zeros([Q, N], tl.float32)
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
        place_PN = ((b * chunks + c) * heads + h) * SIZE * STATE + p[:, None] * STATE + n[None, :]
        inside_PN = (p < SIZE)[:, None] & (n < STATE)[None, :]
        h_PN = tl.load(entering + place_PN, mask=inside_PN, other=0.0)
        g_PN = tl.load(leaving + place_PN, mask=inside_PN, other=0.0)
        before_Q = tl.exp2(decay_Q)
        after_Q = tl.exp2(total - decay_Q)
        keep = tl.exp2(total)
        if segment is not None:
            before_Q = tl.where(segment_Q == 0, before_Q, 0.0)
            after_Q = tl.where(segment_Q == last, after_Q, 0.0)
            keep = tl.where(last == 0, keep, 0.0)

        left_QQ = tl.exp2(tl.where(seen_QQ, decay_Q[None, :] - decay_Q[:, None], float("-inf")))
        pairs_QQ = tl.dot(x_QP, tl.trans(dy_QP), input_precision=PRECISION) * left_QQ
        both_QQ += pairs_QQ * step_Q[:, None]
        pairs_QQ *= near_QQ
        given_Q = tl.sum(pairs_QQ, 1)
        gained_Q = tl.sum(pairs_QQ * step_Q[:, None], 0)

        du_QP = tl.dot(B_QN, tl.trans(g_PN), input_precision=PRECISION) * after_Q[:, None]
        wide_QP, d_wide_QP = x_QP.to(tl.float32), dy_QP.to(tl.float32)
        to_state_Q = tl.sum(wide_QP * du_QP, 1)
        du_QP = tl.dot((near_QQ * left_QQ).to(kind), dy_QP, du_QP, input_precision=PRECISION)
        dx_QP = du_QP * step_Q[:, None] + tl.load(skip + h).to(tl.float32) * d_wide_QP
        tl.store(dx + h * SIZE + (row * dx_l + p[None, :]), dx_QP.to(dx.dtype.element_ty), mask=there_QP)

        scaled_QP = (wide_QP * (after_Q * step_Q)[:, None]).to(kind)
        dB_QN = tl.dot(scaled_QP, g_PN, dB_QN, input_precision=PRECISION)
        scaled_QP = (d_wide_QP * before_Q[:, None]).to(kind)
        seen_QN = tl.dot(scaled_QP, h_PN, input_precision=PRECISION)
        dC_QN += seen_QN
        gained_Q += tl.sum(seen_QN * C_QN.to(tl.float32), 1)

        line = (b * blocks + v) * chunks * Q + t
        tl.store(given + line, given_Q + to_state_Q)
        tl.store(gained + line, gained_Q)
        end = keep * tl.sum(h_PN.to(tl.float32) * g_PN.to(tl.float32)) + tl.sum(to_state_Q * step_Q)
        tl.store(ends + (b * chunks + c) * blocks + v, end)
        tl.store(d_skip + (b * chunks + c) * blocks + v, tl.sum(wide_QP * d_wide_QP))
    both_QQ = both_QQ.to(kind)
    dB_QN = tl.dot(both_QQ, C_QN, dB_QN, input_precision=PRECISION)
    dC_QN = tl.dot(tl.trans(both_QQ), B_QN, dC_QN, input_precision=PRECISION)
    out = part.to(tl.int64) * dB_part + b * dB_b + start * dB_l + group * STATE + (row * dB_l + n[None, :])
    tl.store(dB + out, dB_QN.to(dB.dtype.element_ty), mask=there_QN)
    tl.store(dC + out, dC_QN.to(dC.dtype.element_ty), mask=there_QN)


@triton.jit
def finish_kernel(
    rates,
    step,
    given,
    gained,
    ends,
    d_skip,
    d_dt,
    d_rates,
    d_skips,
    length,
    chunks,
    heads,
    SPLIT: tl.constexpr,
    Q: tl.constexpr,
    HEADS: tl.constexpr,
):
    """The gradient of dt (B, L, H), and those of A and D for each chunk (B, chunks, H)."""
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
    out = (b * length + t[:, None]) * heads + h[None, :]
    tl.store(d_dt + out, d_dt_QH.to(d_dt.dtype.element_ty), mask=(t < length)[:, None] & in_h[None, :])
    out = (b * chunks + c) * heads + h
    tl.store(d_rates + out, tl.sum(d_log_QH * step_QH, 0), mask=in_h)
    tl.store(d_skips + out, skip_H, mask=in_h)
