"""Products with a weight that is wider than they are, under autocast: on a GPU its gradient is float32 at once.

Autograd would round the gradient to 16 bits and then cast it to the weight's float32 in a pass of its own, 1 of 100 ms
of a step on an H200. The tensor cores sum in float32 anyway, and losses stay nearer to those of a run in float32.
Shapes: R rows (all leading dimensions), I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sidewinder.ops.dispatch import autocast_dtype


def linear(x_I: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x Wᵀ (+ bias), (…, O): `torch.nn.functional.linear` with an exacter gradient of a float32 weight under autocast.

    A compiler gets torch's own, which it knows to fuse.
    """
    dtype = autocast_dtype(x_I)
    wider = weight_OI.dtype == torch.float32 != dtype
    if bias_O is None and wider and x_I.is_cuda and not torch.compiler.is_compiling():
        out_O: Tensor = _WideGradient.apply(x_I.to(dtype), weight_OI)
        return out_O
    return F.linear(x_I, weight_OI, bias_O)


class _WideGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_I: Tensor, weight_OI: Tensor) -> Tensor:
        narrow_OI = weight_OI.to(x_I.dtype)
        ctx.save_for_backward(x_I, narrow_OI)
        return F.linear(x_I, narrow_OI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x_I, narrow_OI), (dy_O,) = ctx.saved_tensors, d_outputs
        dx_I = dy_O @ narrow_OI if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dx_I, None
        dy_RO, x_RI = (part.reshape(-1, part.shape[-1]) for part in (dy_O, x_I))
        return dx_I, torch.mm(dy_RO.T, x_RI, out_dtype=torch.float32)
