"""Context parallelism: each process reads a stretch of every sequence, the first process the first stretch.

Attention gathers keys and values; a convolution needs the last few inputs of the stretch before; a scan is read from
an empty state, and the states that the stretches leave, with their decays, give what really enters each. Nothing is
divided by heads, so any number of them will do.
Shapes: S stretches, B batch, L length of a stretch, C channels; a state is (B, …).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from sidewinder.model import LanguageModel


@dataclass(frozen=True)
class ContextPart:
    """This process's stretch of the sequences."""

    mesh: DeviceMesh

    @property
    def rank(self) -> int:
        """Place of the stretch in the sequences."""
        return self.mesh.get_local_rank()

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """All stretches joined along `dim`; the backward pass sums what each process asks of them."""
        parts = DTensor.from_local(x, self.mesh, [Shard(dim)], run_check=False)
        return parts.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])

    def before(self, x_BLC: Tensor, count: int, resets_BL: Tensor | None) -> Tensor:
        """The `count` tokens (B, count, C) before this stretch, zero before a sequence or its document begins."""
        # A stretch may be shorter than the convolution is wide, so the tails of all earlier ones are joined.
        tail = slice(max(0, x_BLC.shape[1] - count), None)
        tails_BTC = F.pad(self.gather(x_BLC[:, tail].contiguous(), 1), (0, 0, count, 0))
        end = count + self.rank * x_BLC[:, tail].shape[1]
        mine = slice(end - count, end)
        if resets_BL is None:
            return tails_BTC[:, mine]
        begins_BT = F.pad(self.gather(resets_BL[:, tail].int().contiguous(), 1), (count, 0))[:, mine]
        begun_later_BT = begins_BT.flip(1).cumsum(1).flip(1) - begins_BT
        return tails_BTC[:, mine] * (begun_later_BT == 0)[..., None]

    def state_before(self, final: Tensor, decay: Tensor) -> Tensor:
        """The state that enters this stretch: each stretch's own final state, decayed by those after it."""
        finals_S, decays_S = self.gather(final[None], 0), self.gather(decay[None], 0)
        entering = [torch.zeros_like(final)]
        for stretch in range(self.mesh.size() - 1):
            entering.append(entering[-1] * decays_S[stretch] + finals_S[stretch])
        # All of them, so that every process takes part in the gradient's exchange, the first one too.
        return torch.stack(entering)[self.rank]


def divide_sequences(model: LanguageModel, mesh: DeviceMesh) -> None:
    """Makes every mixer read its stretch in the knowledge of the others."""
    for layer in model.stack:
        layer.mixer.context = ContextPart(mesh)
