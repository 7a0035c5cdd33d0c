"""Tensor parallelism: each process holds some heads or channels of every layer, and between layers some tokens.

Matrices are sharded: those that widen by rows, those that narrow by columns. Rows of Mamba's `in_proj` come in segments
(z, x, B, C, dt), each of which is divided, so that a process holds its part of every segment, in the same order.
Everything small (norms, convolutions, A, D, biases) is whole on every process, which uses its own rows of it.
Shapes: B batch, L length, D hidden, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from sidewinder.model import LanguageModel
from sidewinder.model.attention import Attention
from sidewinder.model.mamba1 import Mamba1
from sidewinder.model.mamba2 import Mamba2
from sidewinder.model.mlp import Mlp
from sidewinder.model.parts import Linear
from sidewinder.ops.dispatch import in_autocast

WIDENS, NARROWS = Shard(0), Shard(1)
LENGTH = Shard(1)  # Of activations (B, L, D).


@dataclass(frozen=True)
class TensorPart:
    """This process's place among those that share the layers."""

    mesh: DeviceMesh

    def own(self, parameter: Tensor, segments: Sequence[int]) -> Tensor:
        """This process's rows of a parameter whose rows lie in segments, each divided by itself."""
        return own_rows(parameter, segments, self.mesh.get_local_rank(), self.mesh.size())

    def gather(self, x_BLD: Tensor) -> Tensor:
        """The whole sequence, of which each process holds a stretch between the mixers."""
        return self._moved(in_autocast(x_BLD), LENGTH, Replicate()).to_local(grad_placements=[Partial()])

    def scatter(self, y_BLD: Tensor) -> Tensor:
        """This process's stretch of the sum over the processes."""
        return self._moved(y_BLD, Partial(), LENGTH).to_local()

    def sum(self, y_BLC: Tensor) -> Tensor:
        """The sum over the processes, on each of them."""
        whole_BLC = self._moved(y_BLC, Partial(), Replicate()).to_local()
        return self._moved(whole_BLC, Replicate(), Replicate()).to_local(grad_placements=[Partial()])

    def _moved(self, x: Tensor, source: Placement, target: Placement) -> DTensor:
        return DTensor.from_local(x, self.mesh, [source], run_check=False).redistribute(placements=[target])


def own_rows(whole: Tensor, segments: Sequence[int], part: int, parts: int) -> Tensor:
    """One of `parts` equal parts of each segment of rows, joined."""
    cut = [segment.chunk(parts)[part] for segment in whole.split(list(segments))]
    return cut[0] if len(cut) == 1 else torch.cat(cut)


def divide_layers(model: LanguageModel, mesh: DeviceMesh) -> None:
    """Shards the matrices of every mixer over `mesh` and gives the mixers their part of the heads and widths."""
    parts = mesh.size()
    for layer in model.stack:
        mixer = layer.mixer
        mixer.tensor = TensorPart(mesh)
        for linear, placement in _matrices(mixer):
            _shard(linear, mesh, placement)
        if isinstance(mixer, Attention):
            mixer.heads, mixer.kv_heads = mixer.heads // parts, mixer.kv_heads // parts
        elif isinstance(mixer, Mamba1):
            mixer.inner //= parts
        elif isinstance(mixer, Mamba2):
            mixer.inner, mixer.convolved = mixer.inner // parts, mixer.convolved // parts
            mixer.heads, mixer.groups = mixer.heads // parts, mixer.groups // parts


def _matrices(mixer: Attention | Mamba1 | Mamba2 | Mlp) -> list[tuple[Linear, Shard]]:
    """The matrices of a mixer and the dimension by which each is cut."""
    if isinstance(mixer, Attention):
        return [(mixer.q_proj, WIDENS), (mixer.k_proj, WIDENS), (mixer.v_proj, WIDENS), (mixer.o_proj, NARROWS)]
    if isinstance(mixer, Mlp):
        gate = [(mixer.gate_proj, WIDENS)] if mixer.activation == "swiglu" else []
        return [*gate, (mixer.up_proj, WIDENS), (mixer.down_proj, NARROWS)]
    ends = [(mixer.in_proj, WIDENS), (mixer.out_proj, NARROWS)]
    return ends if isinstance(mixer, Mamba2) else [*ends, (mixer.x_proj, NARROWS), (mixer.dt_proj, WIDENS)]


def _shard(linear: Linear, mesh: DeviceMesh, placement: Shard) -> None:
    """Replaces a weight by a sharded one of the same shape; values come later, see `weights`."""
    whole = linear.weight
    shape = list(whole.shape)
    shape[placement.dim] //= mesh.size()
    local = DTensor.from_local(whole.new_empty(shape), mesh, [placement], run_check=False)
    linear.weight = torch.nn.Parameter(local, requires_grad=whole.requires_grad)
    linear.divided = True
