"""A mixer's part of the work where several processes share a layer or a sequence; `train.parallel` provides both kinds.

Without them, as on one device, a mixer holds whole parameters and reads whole sequences.
Shapes: B batch, L length (of this process's part), D hidden, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn


class TensorShare(Protocol):
    """Tensor parallelism: each process computes some heads or channels of every layer."""

    def own(self, parameter: Tensor, segments: Sequence[int]) -> Tensor:
        """This process's rows of a parameter that every process holds whole: its part of each segment, joined."""

    def gather(self, x_BLD: Tensor) -> Tensor:
        """The parts of the sequence, joined along its length."""

    def scatter(self, y_BLD: Tensor) -> Tensor:
        """The sum over processes, of which each keeps its part of the sequence."""

    def sum(self, y_BLC: Tensor) -> Tensor:
        """The sum over processes, whole in each; the gradients that come back are summed as well."""


class ContextShare(Protocol):
    """Context parallelism: each process reads a stretch of every sequence, in order of rank."""

    @property
    def rank(self) -> int:
        """Number of this process's stretch, from 0."""

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """All stretches, joined along `dim`."""

    def before(self, x_BLC: Tensor, count: int, resets_BL: Tensor | None) -> Tensor:
        """The `count` tokens that precede this stretch (B, count, C), zero before the first and before a reset."""

    def state_before(self, final: Tensor, decay: Tensor) -> Tensor:
        """The state that enters this stretch, from each stretch's own final state and its total decay."""


class Mixer(nn.Module):
    """What the mixers have in common."""

    tensor: TensorShare | None = None
    context: ContextShare | None = None

    def own(self, parameter: Tensor, *segments: int) -> Tensor:
        """The rows of a small parameter that belong to this process's heads or channels.

        `segments` are the rows of its parts where it has several, each of which is divided.
        """
        return parameter if self.tensor is None else self.tensor.own(parameter, segments or (len(parameter),))


def local(parameter: Tensor) -> Tensor:
    """This process's part of a matrix as a plain tensor; the gradient finds its way back."""
    to_local = getattr(parameter, "to_local", None)
    return parameter if to_local is None else to_local()
