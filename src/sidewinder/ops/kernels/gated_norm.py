# mypy: ignore-errors
# Triton compiles these functions from a subset of Python: no annotations, tuples by +, constants tested by themselves.
"""The grouped gated RMSNorm: a program holds one group of one row at a time.

Shapes: R rows, D channels in groups of E.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward_kernel(x, z, weight, y, scale, x_r, z_r, channels, group, eps, BLOCK: tl.constexpr):
    """y (R, D) = norm(x · silu(z)) · weight, and the scale (R, groups) of each group, which backward reads again."""
    row = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK)
    d = tl.program_id(1) * group + e
    x_E = tl.load(x + row * x_r + d, mask=e < group, other=0.0).to(tl.float32)
    z_E = tl.load(z + row * z_r + d, mask=e < group, other=0.0).to(tl.float32)
    gated_E = x_E * z_E * tl.sigmoid(z_E)
    inverse = tl.rsqrt(tl.sum(gated_E * gated_E) / group + eps)
    y_E = gated_E * inverse * tl.load(weight + d, mask=e < group, other=0.0).to(tl.float32)
    tl.store(y + row * channels + d, y_E.to(y.dtype.element_ty), mask=e < group)
    tl.store(scale + row * tl.num_programs(1) + tl.program_id(1), inverse)


@triton.jit
def backward_kernel(
    x,
    z,
    weight,
    scale,
    dy,
    dx,
    dz,
    d_weight,
    x_r,
    z_r,
    dy_r,
    dz_r,
    rows,
    channels,
    group,
    rows_a_program,
    BLOCK: tl.constexpr,
):
    """dx and dz (R, D); d_weight (programs, D), a row for each program's rows: their sum is the weight's gradient."""
    part = tl.program_id(0)
    e = tl.arange(0, BLOCK)
    in_e = e < group
    d = tl.program_id(1) * group + e
    weight_E = tl.load(weight + d, mask=in_e, other=0.0).to(tl.float32)
    d_weight_E = tl.zeros([BLOCK], tl.float32)
    first = part * rows_a_program
    for place in range(first, min(first + rows_a_program, rows)):
        row = tl.full((), place, tl.int64)
        x_E = tl.load(x + row * x_r + d, mask=in_e, other=0.0).to(tl.float32)
        z_E = tl.load(z + row * z_r + d, mask=in_e, other=0.0).to(tl.float32)
        dy_E = tl.load(dy + row * dy_r + d, mask=in_e, other=0.0).to(tl.float32)
        inverse = tl.load(scale + row * tl.num_programs(1) + tl.program_id(1))
        open_E = tl.sigmoid(z_E)
        silu_E = z_E * open_E
        normed_E = x_E * silu_E * inverse
        d_weight_E += dy_E * normed_E
        d_normed_E = dy_E * weight_E
        d_gated_E = inverse * (d_normed_E - normed_E * (tl.sum(d_normed_E * normed_E) / group))
        tl.store(dx + row * channels + d, (d_gated_E * silu_E).to(dx.dtype.element_ty), mask=in_e)
        dz_E = d_gated_E * x_E * (open_E + silu_E * (1.0 - open_E))
        tl.store(dz + row * dz_r + d, dz_E.to(dz.dtype.element_ty), mask=in_e)
    tl.store(d_weight + part * channels + d, d_weight_E, mask=in_e)
