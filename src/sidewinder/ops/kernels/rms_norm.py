# mypy: ignore-errors
# Triton compiles these functions from a subset of Python: no annotations, constants tested by themselves.
"""RMSNorm of a residual stream: a program holds one row at a time.

Shapes: R rows, D channels.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward_kernel(x, update, weight, stream, y, scale, channels, eps, BLOCK: tl.constexpr):
    """`stream` (R, D) becomes x + `update`, where that is given, and `y` its norm: of what is stored, rounded."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    in_d = d < channels
    here = row * channels + d
    x_D = tl.load(x + here, mask=in_d, other=0.0).to(tl.float32)
    if update is not None:
        x_D += tl.load(update + here, mask=in_d, other=0.0).to(tl.float32)
        stored_D = x_D.to(stream.dtype.element_ty)
        tl.store(stream + here, stored_D, mask=in_d)
        x_D = stored_D.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(x_D * x_D) / channels + eps)
    y_D = x_D * inverse * tl.load(weight + d, mask=in_d, other=0.0).to(tl.float32)
    tl.store(y + here, y_D.to(y.dtype.element_ty), mask=in_d)
    tl.store(scale + row, inverse)


@triton.jit
def backward_kernel(
    x, weight, scale, dy, beside, dx, d_update, d_weight,
    dy_r, rows, channels, rows_a_program, BLOCK: tl.constexpr,
):  # fmt: skip
    """`beside` (R, D), where given, is the gradient that reaches x past the norm; it is added to that through it.

    `d_update` (R, D), where given, holds the same as dx in its own type.
    """
    part = tl.program_id(0)
    d = tl.arange(0, BLOCK)
    in_d = d < channels
    weight_D = tl.load(weight + d, mask=in_d, other=0.0).to(tl.float32)
    d_weight_D = tl.zeros([BLOCK], tl.float32)
    first = part * rows_a_program
    for place in range(first, min(first + rows_a_program, rows)):
        row = tl.full((), place, tl.int64)
        here = row * channels + d
        dy_D = tl.load(dy + row * dy_r + d, mask=in_d, other=0.0).to(tl.float32)
        inverse = tl.load(scale + row)
        normed_D = tl.load(x + here, mask=in_d, other=0.0).to(tl.float32) * inverse
        d_weight_D += dy_D * normed_D
        d_normed_D = dy_D * weight_D
        dx_D = inverse * (d_normed_D - normed_D * (tl.sum(d_normed_D * normed_D) / channels))
        if beside is not None:
            dx_D += tl.load(beside + here, mask=in_d, other=0.0).to(tl.float32)
        tl.store(dx + here, dx_D.to(dx.dtype.element_ty), mask=in_d)
        if d_update is not None:
            tl.store(d_update + here, dx_D.to(d_update.dtype.element_ty), mask=in_d)
    tl.store(d_weight + part * channels + d, d_weight_D, mask=in_d)
