"""Mean cross-entropy of next-token targets that never holds the logits of all tokens.

The output head is part of the operation: a block of tokens is projected, scored, and its gradient taken at once, in
place of its logits. So the largest array is (block, V), and the backward pass is one multiplication.
Shapes: T tokens, D channels, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Target of a token that has no loss."""

BLOCK_BYTES = 4 << 20
"""Largest array of logits on a CPU: what stays in the cache nearest to the core is several times faster."""


def cross_entropy_reference(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """The definition, with all logits at once."""
    kept_T = targets_T != IGNORED
    scores_TV = torch.log_softmax(hidden_TD[kept_T] @ weight_VD.T, dim=-1)
    return -scores_TV.gather(1, targets_T[kept_T][:, None]).mean()


def cross_entropy(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """Mean of −log softmax(hidden · weightᵀ)[target] over targets other than −100 (0 where all are ignored)."""
    return _CrossEntropy.apply(hidden_TD, weight_VD, targets_T, torch.is_grad_enabled())


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, with_gradient: bool) -> Tensor:
        count = (targets_T != IGNORED).sum().clamp(min=1)
        total = torch.zeros((), dtype=torch.float32 if hidden_TD.dtype != torch.float64 else torch.float64)
        total = total.to(hidden_TD.device)
        d_hidden_TD = torch.empty_like(hidden_TD) if with_gradient else None
        d_weight_VD = torch.zeros_like(weight_VD) if with_gradient else None
        rows = max(1, BLOCK_BYTES // (weight_VD.shape[0] * total.element_size()))
        for start in range(0, hidden_TD.shape[0], rows):
            part = slice(start, start + rows)
            logits_tV = (hidden_TD[part] @ weight_VD.T).to(total.dtype)
            scores_tV = torch.log_softmax(logits_tV, dim=-1)
            total += F.nll_loss(scores_tV, targets_T[part], ignore_index=IGNORED, reduction="sum")
            if d_hidden_TD is None or d_weight_VD is None:
                continue
            kept_t = targets_T[part] != IGNORED
            d_logits_tV = scores_tV.exp_()
            place_t1 = targets_T[part].clamp(min=0)[:, None]
            d_logits_tV.scatter_add_(1, place_t1, d_logits_tV.new_full(place_t1.shape, -1.0))
            d_logits_tV *= (kept_t.to(total.dtype) / count)[:, None]
            d_logits_tV = d_logits_tV.to(hidden_TD.dtype)
            torch.mm(d_logits_tV, weight_VD, out=d_hidden_TD[part])
            d_weight_VD.addmm_(d_logits_tV.T, hidden_TD[part])
        ctx.save_for_backward(d_hidden_TD, d_weight_VD)
        return total / count

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (d_loss,) = d_outputs
        d_hidden_TD, d_weight_VD = ctx.saved_tensors
        return d_hidden_TD * d_loss, d_weight_VD * d_loss, None, None
