"""A process's part of a batch: some sequences, of each its stretch, in micro-batches.

Shapes: B sequences, L tokens of a sequence or of this process's stretch of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sidewinder.train.parallel.world import World


@dataclass(frozen=True)
class Part:
    """What one forward pass of one process reads."""

    inputs: Tensor
    targets: Tensor
    resets: Tensor | None
    """Of the stretch that the mixers see, which several processes share under tensor parallelism."""

    def to(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same on a device; the copies wait for nothing."""
        inputs, targets = (_moved(part, device) for part in (self.inputs, self.targets))
        return inputs, targets, None if self.resets is None else _moved(self.resets, device)


def parts_of(inputs_BL: np.ndarray, targets_BL: np.ndarray, *, size: int, eos: int | None, world: World) -> list[Part]:
    """Micro-batches of `size` sequences, cut to this process's stretch; with `eos`, documents start afresh at it."""
    inputs, targets = torch.from_numpy(inputs_BL), torch.from_numpy(targets_BL)
    resets = None if eos is None else document_starts(inputs, eos)
    length = inputs.shape[1]
    mine = _stretch(length, world.place("context", "tensor"), world.mesh.sequence_parts)
    shared = _stretch(length, world.place("context"), world.mesh.context)
    return [
        Part(
            inputs[rows : rows + size, mine],
            targets[rows : rows + size, mine],
            None if resets is None else resets[rows : rows + size, shared],
        )
        for rows in range(0, len(inputs), size)
    ]


def document_starts(tokens_BL: Tensor, eos: int) -> Tensor:
    """True where a document starts: at the end of the one before it, and at the sequence's first token.

    The end-of-document token stands before a document in evaluation too, where there is nothing else before it.
    """
    starts_BL = tokens_BL == eos
    starts_BL[:, 0] = True
    return starts_BL


def _stretch(length: int, part: int, parts: int) -> slice:
    return slice(part * length // parts, (part + 1) * length // parts)


def _moved(part: Tensor, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return part
    return part.contiguous().pin_memory().to(device, non_blocking=True)
