"""Squared ReLU (So et al., arXiv 2109.08668): max(x, 0)², with one pass backward where autograd takes four."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def squared_relu_reference(x: Tensor) -> Tensor:
    """The definition."""
    return torch.where(x > 0, x * x, 0)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)², element by element."""
    return _SquaredRelu.apply(x)


class _SquaredRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> Tensor:
        (positive,), (dy,) = ctx.saved_tensors, d_outputs
        return (dy * positive).mul_(2)
