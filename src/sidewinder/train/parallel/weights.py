"""Whole tensors into the shards of a parallel model, and back.

A shard of `in_proj` under tensor parallelism holds the process's part of each segment (see `tensor`), so rows change
their order on the way. In a resumable save each segment is a tensor of its own, cut along two dimensions at most, which
torch.distributed.checkpoint can put together on any other mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sidewinder.model import LanguageModel
from sidewinder.model.mamba1 import Mamba1
from sidewinder.model.mamba2 import Mamba2
from sidewinder.train.parallel.tensor import own_rows
from sidewinder.train.parallel.world import World


def storing(model: LanguageModel, world: World) -> Callable[[Tensor, Tensor], object]:
    """`put(parameter, values)`: stores this process's part of whole values (any device, any dtype)."""
    segments = {id(parameter): rows for _, parameter, rows in _segmented(model)}

    @torch.no_grad()
    def put(parameter: Tensor, values: Tensor) -> None:
        if not isinstance(parameter, DTensor):
            parameter.copy_(values)
            return
        if rows := segments.get(id(parameter)):
            values = torch.cat([own_rows(values, rows, part, world.mesh.tensor) for part in range(world.mesh.tensor)])
        parameter.to_local().copy_(_own_shard(values, parameter))

    return put


def whole_state(model: LanguageModel, world: World) -> Iterator[tuple[str, Tensor]]:
    """Name and whole value of every parameter, on the CPU, in the order of the state dict.

    Every process must go through all of them; only the first one gets the values, the others an empty tensor.
    """
    segments = {id(parameter): rows for _, parameter, rows in _segmented(model)}
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        if isinstance(value, DTensor):
            value = value.full_tensor()
            if rows := segments.get(id(parameter)):
                value = _canonical(value, rows, world.mesh.tensor)
        yield name, value.cpu() if world.first else torch.empty(0)


def named_shards(model: LanguageModel, name: str, parameter: Tensor, value: Tensor) -> dict[str, Tensor]:
    """A parameter's value, or optimizer state of its shape, under the names of a resumable save, as views of `value`.

    Names are the same on every mesh, so `in_proj` is always named by its segments.
    """
    rows = next((rows for known, _, rows in _segmented(model) if known == name), None)
    if rows is None or value.ndim == 0:
        return {name: value}
    if not isinstance(value, DTensor):
        return {f"{name}/{number}": part for number, part in enumerate(value.split(list(rows)))}
    assert isinstance(parameter, DTensor)
    local, parts = value.to_local(), _parts_of_rows(parameter)
    views = local.split([count // parts for count in rows])
    columns = value.shape[1]
    return {
        f"{name}/{number}": DTensor.from_local(
            view,
            value.device_mesh,
            value.placements,
            run_check=False,
            shape=torch.Size([count, columns]),
            stride=(columns, 1),
        )
        for number, (view, count) in enumerate(zip(views, rows, strict=True))
    }


def _parts_of_rows(parameter: DTensor) -> int:
    """Into how many parts tensor parallelism cuts the rows of `in_proj`."""
    return parameter.shape[0] // parameter.to_local().shape[0]


def _own_shard(values: Tensor, parameter: DTensor) -> Tensor:
    """The part of whole values that this process holds; without any communication.

    FSDP's cut along a dimension that tensor parallelism has cut already is a cut of that process's part, so the parts
    are taken from the last direction of the mesh, tensor, to the first.
    """
    mesh, place = parameter.device_mesh, parameter.device_mesh.get_coordinate()
    assert place is not None
    for direction in reversed(range(mesh.ndim)):
        dim = getattr(parameter.placements[direction], "dim", None)  # Replicate has none.
        if dim is not None:
            chunks, index = values.chunk(mesh.size(direction), dim), place[direction]
            values = chunks[index] if index < len(chunks) else values.narrow(dim, 0, 0)
    return values


def _canonical(joined: Tensor, rows: tuple[int, ...], parts: int) -> Tensor:
    """Rows in the order of their segments, from each process's segments one after the other."""
    own = [part.split([count // parts for count in rows]) for part in joined.chunk(parts)]
    return torch.cat([torch.cat(pieces) for pieces in zip(*own, strict=True)])


def _segmented(model: LanguageModel) -> Iterator[tuple[str, nn.Parameter, tuple[int, ...]]]:
    """Name, weight and rows of the segments of every `in_proj`."""
    for number, layer in enumerate(model.stack):
        if isinstance(layer.mixer, Mamba1 | Mamba2):
            yield f"layers.{number}.mixer.in_proj.weight", layer.mixer.in_proj.weight, layer.mixer.in_segments
