# mypy: ignore-errors
# Triton compiles these functions from a subset of Python: no annotations.
"""Activations inside kernels, of float32 numbers."""

from __future__ import annotations

import triton
import triton.language as tl

LEAST_GATE = tl.constexpr(2.0**-64)


@triton.jit
def sigmoid(x):
    # rsqrt(v)² is 1 / v with one special-function instruction, where a division takes about eight instructions.
    root = tl.rsqrt(1.0 + tl.exp2(-1.4426950408889634 * x))
    return root * root


@triton.jit
def softplus(x):
    """log(1 + exp(x)), to 4e-7 of itself also where that is tiny."""
    e = tl.exp2(-1.4426950408889634 * tl.abs(x))
    # log(1 + e) / e for 0 ≤ e ≤ 1, the polynomial of degree 7 with the least relative error (2e-7). A logarithm of
    # 1 + e would lose what is small in e: a step size of 0.001 would be off by 3e-4 of itself.
    p = -0.008539209142327309 * e + 0.04408963769674301
    p = p * e - 0.10768172889947891
    p = p * e + 0.1774524301290512
    p = p * e - 0.2449546456336975
    p = p * e + 0.33275479078292847
    p = p * e - 0.4999740421772003
    p = p * e + 0.9999998211860657
    return p * e + tl.maximum(x, 0.0)


@triton.jit
def gate_input(z):
    """`z`, but never so near to 0 that y could not be got back from y · silu(z)."""
    return tl.where(tl.abs(z) < LEAST_GATE, LEAST_GATE, z)


@triton.jit
def gate(z):
    """silu(z) = z · sigmoid(z), as forward and backward take it."""
    z = gate_input(z)
    return z * sigmoid(z)


@triton.jit
def gate_gradient(z, gated):
    """y · silu′(z) from `gated` = y · silu(z), since silu′ / silu is 1 / z + 1 − sigmoid(z)."""
    z = gate_input(z)
    return gated * (1.0 / z + 1.0 - sigmoid(z))
