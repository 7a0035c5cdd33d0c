"""Gradients of a parallel model: the small parameters' sum, the norm of all, and clipping.

FSDP leaves each process the summed gradient of its own shards. Small parameters are whole everywhere, and each process
has the gradient of its own tokens, heads or channels, zero elsewhere: their sum over all processes is the gradient.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from sidewinder.train.parallel.world import World


def local_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """What this process holds of the gradients, as plain tensors (views)."""
    found = (parameter.grad for parameter in parameters)
    return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in found if grad is not None]


def sum_small(parameters: Iterable[Tensor], world: World) -> None:
    """Sums the gradients of parameters that are whole on every process, in one message."""
    if world.device_mesh is None:
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    small = [grad for grad in grads if not isinstance(grad, DTensor)]
    if not small:
        return
    flat = torch.cat([grad.flatten() for grad in small])
    dist.all_reduce(flat)
    summed = [
        part.view_as(grad) for part, grad in zip(flat.split([grad.numel() for grad in small]), small, strict=True)
    ]
    torch._foreach_copy_(small, summed)


def squared_norm(parameters: Iterable[Tensor], world: World) -> Tensor:
    """This process's share of the squared L2 norm of all gradients, which sums over processes to the whole.

    Shards count where they are, once for each replica of hybrid sharding, and small parameters everywhere.
    """
    parameters = list(parameters)
    shards = [parameter.grad.to_local() for parameter in parameters if isinstance(parameter.grad, DTensor)]
    small = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    return get_total_norm(shards) ** 2 / world.mesh.replicas + get_total_norm(small) ** 2 / world.size


def clip(parameters: Iterable[Tensor], norm: float, limit: float) -> None:
    """Scales all gradients so that their norm, which is `norm` now, does not exceed `limit`."""
    scale = limit / (norm + 1e-6)
    if scale < 1:
        torch._foreach_mul_(local_gradients(parameters), scale)
