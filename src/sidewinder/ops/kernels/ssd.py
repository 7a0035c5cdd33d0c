# mypy: ignore-errors
# Triton compiles these functions from a subset of Python: no annotations, constants tested by themselves.
"""Mamba-2's scan in chunks, forward: decays within each chunk, states between chunks, outputs.

Log decays are summed within a chunk and in base 2: a_t = log2(e) A (dt_1 + … + dt_t), so that 2^(a_i − a_j) is what is
left at token i of what came in at token j. Differences are taken before the exponential, and are never positive where
they count. Tokens past the end have dt = 0 and zeros for all else. A head wider than a block is taken as several: heads
and blocks are numbered together, v = head · SPLIT + block.
Shapes: B batch, H heads, V blocks of heads, Q tokens of a chunk, P channels of a block, N state size.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sidewinder.ops.kernels.activations import softplus

NUMBERS = ("length", "padded", "chunks", "heads", "per_group", "together")
"""Arguments whose values do not make another kernel: sequences of any length run without compilation."""


@triton.jit(do_not_specialize=NUMBERS)
def decay_kernel(
    dt, bias, rates, resets, decay, step, segment, length, padded, heads, dt_b, dt_l, dt_h,
    Q: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Log decays and dt, float32 and time last (B, H, tokens); the number of resets so far in each token's chunk.

    With `bias` the step size is softplus(dt + bias).
    """
    h = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * Q + tl.arange(0, Q)
    at = dt + b * dt_b + t.to(tl.int64)[:, None] * dt_l + h[None, :] * dt_h
    dt_QH = tl.load(at, mask=(t < length)[:, None] & (h < heads)[None, :], other=0.0).to(tl.float32)
    if bias is not None:
        dt_QH = softplus(dt_QH + tl.load(bias + h, mask=h < heads, other=0.0).to(tl.float32)[None, :])
        dt_QH = tl.where((t < length)[:, None], dt_QH, 0.0)
    rate_H = tl.load(rates + h, mask=h < heads, other=0.0).to(tl.float32) * 1.4426950408889634
    out = (b * heads + h[None, :]) * padded + t[:, None]
    tl.store(step + out, dt_QH, mask=(h < heads)[None, :])
    tl.store(decay + out, tl.cumsum(dt_QH * rate_H[None, :], 0), mask=(h < heads)[None, :])
    if resets is not None:
        begins_Q = (tl.load(resets + b * length + t, mask=t < length, other=0) != 0).to(tl.int32)
        # All programs of a chunk write the same numbers.
        tl.store(segment + b * padded + t, tl.cumsum(begins_Q, 0))


@triton.jit(do_not_specialize=NUMBERS)
def states_kernel(
    values, keys, decay, step, segment, start, states, end, length, chunks, heads, per_group, values_b, values_h,
    keys_b, keys_g,
    values_l: tl.constexpr, keys_l: tl.constexpr, REVERSE: tl.constexpr, SIZE: tl.constexpr, STATE: tl.constexpr,
    Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The state before each chunk (B, chunks, H, P, N) and the last one, from x and B.

    For REVERSE, from dy and C, the gradient of the state after each chunk, and of the first state.
    """
    blocks: tl.constexpr = (STATE + N - 1) // N
    p = tl.program_id(0) // blocks * P + tl.arange(0, P)
    n = tl.program_id(0) % blocks * N + tl.arange(0, N)
    h = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    q = tl.arange(0, Q)
    values += b * values_b + h * values_h
    keys += b * keys_b + (h // per_group) * keys_g
    decay += (b * heads + h) * chunks * Q
    step += (b * heads + h) * chunks * Q
    place_PN = p[:, None] * STATE + n[None, :]
    inside_PN = (p < SIZE)[:, None] & (n < STATE)[None, :]
    end += (b * heads + h) * SIZE * STATE
    h_PN = tl.zeros([P, N], tl.float32)
    if start is not None:
        start += (b * heads + h) * SIZE * STATE
        h_PN += tl.load(start + place_PN, mask=inside_PN, other=0.0).to(tl.float32)
    for number in range(chunks):
        c = chunks - 1 - number if REVERSE else number
        t = c * Q + q
        here = states + ((b * chunks + c) * heads + h) * SIZE * STATE
        tl.store(here + place_PN, h_PN.to(states.dtype.element_ty), mask=inside_PN)
        total = tl.load(decay + c * Q + Q - 1)
        keep = tl.exp2(total)
        decay_Q = tl.load(decay + t)
        weight_Q = tl.exp2(decay_Q) if REVERSE else tl.exp2(total - decay_Q) * tl.load(step + t)
        if segment is not None:
            segment_Q = tl.load(segment + b * chunks * Q + t)
            last = tl.load(segment + b * chunks * Q + c * Q + Q - 1)
            weight_Q = tl.where(segment_Q == (0 if REVERSE else last), weight_Q, 0.0)
            keep = tl.where(last == 0, keep, 0.0)
        there_Q1 = (t < length)[:, None]
        place_QP = q[:, None] * values_l + p[None, :]
        place_QN = q[:, None] * keys_l + n[None, :]
        skipped = (c * Q).to(tl.int64)
        values_QP = tl.load(values + skipped * values_l + place_QP, mask=there_Q1 & (p < SIZE)[None, :], other=0.0)
        keys_QN = tl.load(keys + skipped * keys_l + place_QN, mask=there_Q1 & (n < STATE)[None, :], other=0.0)
        scaled_QP = (values_QP.to(tl.float32) * weight_Q[:, None]).to(keys.dtype.element_ty)
        h_PN = tl.dot(tl.trans(scaled_QP), keys_QN, h_PN * keep, input_precision=PRECISION)
    tl.store(end + place_PN, h_PN, mask=inside_PN)


@triton.jit(do_not_specialize=NUMBERS)
def output_kernel(
    x, B, C, skip, decay, step, segment, states, y, length, chunks, heads, per_group, together, x_b, x_h, B_b, B_g,
    C_b, C_g,
    x_l: tl.constexpr, B_l: tl.constexpr, C_l: tl.constexpr, SPLIT: tl.constexpr, SIZE: tl.constexpr,
    STATE: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y of one chunk and `together` blocks of heads of one group, which share C Bᵀ."""
    c = tl.program_id(0)
    first = tl.program_id(1) * together
    b = tl.program_id(2).to(tl.int64)
    group = first // (per_group * SPLIT)
    n = tl.arange(0, N)
    row = tl.arange(0, Q)[:, None]
    start = (c * Q).to(tl.int64)
    t = c * Q + tl.arange(0, Q)
    x += b * x_b + start * x_l
    y += (b * length + start) * heads * SIZE
    there_QN = (t < length)[:, None] & (n < STATE)[None, :]
    B_QN = tl.load(B + b * B_b + start * B_l + group * B_g + (row * B_l + n[None, :]), mask=there_QN, other=0.0)
    C_QN = tl.load(C + b * C_b + start * C_l + group * C_g + (row * C_l + n[None, :]), mask=there_QN, other=0.0)
    near_QQ = tl.dot(C_QN, tl.trans(B_QN), input_precision=PRECISION)
    seen_QQ = t[:, None] >= t[None, :]
    if segment is not None:
        segment_Q = tl.load(segment + b * chunks * Q + t)
        seen_QQ = seen_QQ & (segment_Q[:, None] == segment_Q[None, :])
    near_QQ = tl.where(seen_QQ, near_QQ, 0.0)
    for number in range(together):
        h = (first + number) // SPLIT
        p = (first + number) % SPLIT * P + tl.arange(0, P)
        there_QP = (t < length)[:, None] & (p < SIZE)[None, :]
        decay_Q = tl.load(decay + (b * heads + h) * chunks * Q + t)
        step_Q = tl.load(step + (b * heads + h) * chunks * Q + t)
        x_QP = tl.load(x + h * x_h + (row * x_l + p[None, :]), mask=there_QP, other=0.0)
        state = states + ((b * chunks + c) * heads + h) * SIZE * STATE + p[:, None] * STATE + n[None, :]
        state_PN = tl.load(state, mask=(p < SIZE)[:, None] & (n < STATE)[None, :], other=0.0)
        from_state_Q = tl.exp2(decay_Q)
        if segment is not None:
            from_state_Q = tl.where(segment_Q == 0, from_state_Q, 0.0)
        left_QQ = tl.exp2(tl.minimum(decay_Q[:, None] - decay_Q[None, :], 0.0))
        mixed_QQ = (near_QQ * left_QQ * step_Q[None, :]).to(x.dtype.element_ty)
        y_QP = tl.dot(C_QN, tl.trans(state_PN), input_precision=PRECISION) * from_state_Q[:, None]
        y_QP = tl.dot(mixed_QQ, x_QP, y_QP, input_precision=PRECISION)
        y_QP += tl.load(skip + h).to(tl.float32) * x_QP.to(tl.float32)
        tl.store(y + h * SIZE + (row * heads * SIZE + p[None, :]), y_QP.to(y.dtype.element_ty), mask=there_QP)
