"""How an operation is compared with its reference: outputs and every gradient, in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # The table of errors is made by what is tested here.

Operation = Callable[..., Tensor | tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(1234)


@pytest.fixture
def randn() -> Callable[..., Tensor]:
    return lambda *shape: torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def largest_error() -> Callable[[Operation, Operation, Sequence[Tensor]], float]:
    """Largest ‖found − expected‖ / ‖expected‖ over all outputs and the gradients of all inputs."""

    def measure(found: Operation, expected: Operation, inputs: Sequence[Tensor]) -> float:
        pairs = zip(_all_of(found, inputs), _all_of(expected, inputs), strict=True)
        return max(float((a - b).norm() / b.norm().clamp(min=1e-6)) for a, b in pairs)

    return measure


def _all_of(operation: Operation, inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [part.clone().requires_grad_() for part in inputs]
    outputs = operation(*leaves)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    noise = torch.Generator().manual_seed(5)
    total = sum((out * torch.randn(out.shape, dtype=out.dtype, generator=noise)).sum() for out in outputs)
    return [*(out.detach() for out in outputs), *torch.autograd.grad(total, leaves)]
