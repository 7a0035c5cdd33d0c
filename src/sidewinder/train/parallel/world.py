"""The processes of a stage: who they are, how they are arranged, and how they agree."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from sidewinder.config.mesh import Mesh
from sidewinder.errors import ConfigError, SidewinderError

Result = TypeVar("Result")
FOR_EVER_S = 10 * 365 * 86_400
LATER = 2
"""A collective fails after so many times the limit of a hang: the watchdog comes first, for it knows the stacks."""


@dataclass(frozen=True)
class World:
    """One process among those of a stage. Alone it has no device mesh and talks to nobody."""

    mesh: Mesh = field(default_factory=Mesh)
    rank: int = 0
    device_mesh: DeviceMesh | None = None

    @property
    def size(self) -> int:
        return self.mesh.processes

    @property
    def first(self) -> bool:
        """Whether this is the process that writes records and metrics and talks to people."""
        return self.rank == 0

    def place(self, *names: str) -> int:
        """Index of this process along directions of the mesh, taken as one."""
        index = 0
        for name in names:
            if self.device_mesh is not None:
                index = index * self.device_mesh[name].size() + self.device_mesh[name].get_local_rank()
        return index

    def alone_first(self, work: Callable[[], Result]) -> Result:
        """Runs `work` on the first process; all get its result, or raise its SidewinderError."""
        if self.device_mesh is None:
            return work()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except SidewinderError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            outcome[1].everywhere = True
            raise outcome[1]
        result: Result = outcome[0]
        return result

    def gathered(self, value: Result) -> list[Result]:
        """A small object of every process, in order of rank."""
        if self.device_mesh is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def together(self, work: Callable[[], Result]) -> Result:
        """Runs `work` on every process; where it fails on one, all raise, naming the first rank that failed.

        So no process waits for ever on one that has given up.
        """
        failure: SidewinderError | None = None
        try:
            result = work()
        except SidewinderError as error:
            failure = error
        failures = self.gathered(failure)
        if failure is not None:
            raise failure
        for rank, found in enumerate(failures):
            if found is not None:
                raise type(found)(f"rank {rank}: {found}")
        return result


@contextmanager
def join(mesh: Mesh, device: torch.device, *, timeout_s: float | None) -> Iterator[World]:
    """Joins the processes that a launcher has started (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).

    A collective that takes much longer than `timeout_s` fails; None lets it wait. Raises ConfigError where the number
    of processes is not what the mesh asks for.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != mesh.processes:
        raise ConfigError(
            f"training.mesh asks for {mesh.processes} processes (data {mesh.data} x tensor {mesh.tensor} x context "
            f"{mesh.context}), but {size} {'was' if size == 1 else 'were'} started",
            remedy="start as many as the mesh asks for, or change training.mesh",
        )
    if size == 1:
        yield World(mesh)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # None would be the backend's own limit of ten minutes or half an hour, not none.
    dist.init_process_group(backend, timeout=timedelta(seconds=LATER * timeout_s if timeout_s else FOR_EVER_S))
    try:
        yield arrange(mesh, device)
    finally:
        dist.destroy_process_group()


def arrange(mesh: Mesh, device: torch.device) -> World:
    """The processes that have joined, in the order of the mesh: neighbours in `tensor` have neighbouring ranks."""
    shape = (mesh.replicas, mesh.data // mesh.replicas, mesh.context, mesh.tensor)
    device_mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replica", "shard", "context", "tensor"))
    return World(mesh, dist.get_rank(), device_mesh)
