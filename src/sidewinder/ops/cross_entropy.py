"""Mean cross-entropy of next-token targets that never holds the logits of all tokens.

The output head is part of the operation: a block of tokens is projected, scored, and its gradient taken at once, in
place of its logits. So the largest array is (block, V), and the backward pass is one multiplication.
Shapes: T tokens, D channels, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sidewinder.ops.dispatch import in_autocast, on_gpu

IGNORED = -100
"""Target of a token that has no loss."""

BLOCK_BYTES = 2 << 20
"""Largest array of logits on a CPU: what stays in the cache nearest to the core is several times faster."""


def cross_entropy_reference(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """The definition, with all logits at once."""
    kept_T = targets_T != IGNORED
    scores_TV = torch.log_softmax(hidden_TD[kept_T] @ weight_VD.T, dim=-1)
    return -scores_TV.gather(1, targets_T[kept_T][:, None]).mean()


def cross_entropy(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """Mean of −log softmax(hidden · weightᵀ)[target] over targets other than −100 (0 where all are ignored).

    The arithmetic and the result are float64 where `hidden` is, else float32.
    """
    if on_gpu(hidden_TD):
        from sidewinder.ops.cross_entropy_triton import cross_entropy_triton

        return cross_entropy_triton(in_autocast(hidden_TD), in_autocast(weight_VD), targets_T)
    dtype = torch.float64 if hidden_TD.dtype == torch.float64 else torch.float32
    return _CrossEntropy.apply(hidden_TD.to(dtype), weight_VD.to(dtype), targets_T, torch.is_grad_enabled())


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, with_gradient: bool) -> Tensor:
        kept_T = targets_T != IGNORED
        share_T1 = (kept_T.to(hidden_TD.dtype) / kept_T.sum().clamp(min=1))[:, None]
        loss_T1 = torch.empty_like(share_T1)
        d_hidden_TD = torch.empty_like(hidden_TD) if with_gradient else None
        d_weight_VD = torch.zeros_like(weight_VD) if with_gradient else None
        rows = max(1, min(len(hidden_TD), BLOCK_BYTES // (len(weight_VD) * hidden_TD.element_size())))
        logits_tV, chance_tV = hidden_TD.new_empty(2, rows, len(weight_VD)).unbind(0)
        for start in range(0, len(hidden_TD), rows):
            part = slice(start, start + rows)
            target_t1 = targets_T[part, None].clamp(min=0)
            logits_tV, chance_tV = logits_tV[: len(target_t1)], chance_tV[: len(target_t1)]
            torch.mm(hidden_TD[part], weight_VD.T, out=logits_tV)
            torch.softmax(logits_tV, dim=-1, out=chance_tV)
            # log Σ exp(logits), by way of the likeliest piece: its probability is 1 / V at least and never underflows.
            total_t1 = logits_tV.amax(-1, keepdim=True) - chance_tV.amax(-1, keepdim=True).log_()
            torch.sub(total_t1, logits_tV.gather(1, target_t1), out=loss_T1[part])
            if d_hidden_TD is None or d_weight_VD is None:
                continue
            # Gradient of the logits but for each token's share, which the two small products take instead.
            d_logits_tV = chance_tV.scatter_add_(1, target_t1, chance_tV.new_full(target_t1.shape, -1.0))
            torch.mm(d_logits_tV, weight_VD, out=d_hidden_TD[part]).mul_(share_T1[part])
            d_weight_VD.addmm_(d_logits_tV.T, hidden_TD[part] * share_T1[part])
        ctx.save_for_backward(d_hidden_TD, d_weight_VD)
        return (loss_T1 * share_T1).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (d_loss,) = d_outputs
        d_hidden_TD, d_weight_VD = ctx.saved_tensors
        return d_hidden_TD * d_loss, d_weight_VD * d_loss, None, None
