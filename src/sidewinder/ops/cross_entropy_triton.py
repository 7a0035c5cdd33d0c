"""The cross-entropy of cross_entropy.py on a GPU: a block of tokens is projected, and a Triton kernel turns the logits
into their gradient in place, in two readings and one writing of the block.

Shapes: T tokens, D channels, V vocabulary; t tokens of one block.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from sidewinder.ops.cross_entropy import IGNORED
from sidewinder.ops.gpu_function import Function, GpuFunction
from sidewinder.ops.kernels import cross_entropy as kernels

BLOCK_BYTES = 1 << 30
"""Largest array of logits: few enough blocks that the sum over them costs little, small beside a model's states."""


def _in_place(logits_tV: Tensor, targets_t: Tensor, count: Tensor, losses_t: Tensor, *, gradient: bool) -> None:
    rows, vocabulary = logits_tV.shape
    block = min(triton.next_power_of_2(vocabulary), 4096)
    kernels.loss_kernel[(rows,)](
        logits_tV, targets_t, count, losses_t, vocabulary,
        IGNORED=IGNORED, GRADIENT=gradient, BLOCK=block, num_warps=min(max(block // 256, 1), 16),
    )  # fmt: skip


def _forward(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss and, for a gradient of 1 and if wanted, the gradients of `hidden` and `weight`."""
    tokens, channels = hidden_TD.shape
    head_VD = weight_VD.to(hidden_TD.dtype)
    vocabulary = head_VD.shape[0]
    count = (targets_T != IGNORED).sum().clamp(min=1)
    losses_T = torch.empty(tokens, dtype=torch.float32, device=hidden_TD.device)
    d_hidden_TD = torch.empty(tokens if gradient else 0, channels, dtype=hidden_TD.dtype, device=hidden_TD.device)
    d_weight_VD = torch.zeros(vocabulary if gradient else 0, channels, dtype=weight_VD.dtype, device=weight_VD.device)
    rows = max(1, BLOCK_BYTES // (vocabulary * hidden_TD.element_size()))
    for start in range(0, tokens, rows):
        part = slice(start, start + rows)
        logits_tV = hidden_TD[part] @ head_VD.T
        _in_place(logits_tV, targets_T[part], count, losses_T[part], gradient=gradient)
        if not gradient:
            continue
        torch.mm(logits_tV, head_VD, out=d_hidden_TD[part])
        if d_weight_VD.dtype == hidden_TD.dtype:
            d_weight_VD.addmm_(logits_tV.T, hidden_TD[part])
        else:
            d_weight_VD += torch.mm(logits_tV.T, hidden_TD[part])
    return losses_T.sum() / count, d_hidden_TD, d_weight_VD


def _forward_shapes(hidden_TD, weight_VD, targets_T, gradient):  # type: ignore[no-untyped-def]
    loss = hidden_TD.new_empty((), dtype=torch.float32)
    tokens, vocabulary = (hidden_TD.shape[0], weight_VD.shape[0]) if gradient else (0, 0)
    channels = hidden_TD.shape[1]
    return loss, hidden_TD.new_empty(tokens, channels), weight_VD.new_empty(vocabulary, channels)


def _backward(d_loss: Tensor, d_hidden_TD: Tensor, d_weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    return d_hidden_TD * d_loss.to(d_hidden_TD.dtype), d_weight_VD * d_loss.to(d_weight_VD.dtype)


def _backward_shapes(d_loss, d_hidden_TD, d_weight_VD):  # type: ignore[no-untyped-def]
    return torch.empty_like(d_hidden_TD), torch.empty_like(d_weight_VD)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])


def _gradients(backward: Function, ctx: Any, d_loss: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    return *backward(d_loss, *ctx.saved_tensors), None, None


_cross_entropy = GpuFunction(
    "cross_entropy",
    forward=_forward,
    forward_shapes=_forward_shapes,
    backward=_backward,
    backward_shapes=_backward_shapes,
    remember=_remember,
    gradients=_gradients,
)


def cross_entropy_triton(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """As `cross_entropy`, on a GPU. `weight` may be wider than `hidden` (float32 under autocast): it is cast for the
    products, and its gradient is summed over blocks in its own type."""
    loss, _, _ = _cross_entropy(hidden_TD, weight_VD, targets_T.contiguous(), torch.is_grad_enabled())
    return loss
