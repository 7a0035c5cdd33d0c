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
from torch.distributed.distributed_c10d import _set_pg_timeout

from sidewinder.config.mesh import Mesh
from sidewinder.errors import ConfigError, SidewinderError

Result = TypeVar("Result")
FOR_EVER = timedelta(days=10 * 365)
"""None would be the backend's own limit of ten minutes or half an hour, not none."""
LATER = 2
"""A collective fails after so many times the limit of a hang: the watchdog comes first, for it knows the stacks."""


@dataclass(frozen=True)
class World:
    """One process among those of a stage. Alone it has no device mesh and talks to nobody."""

    mesh: Mesh = field(default_factory=Mesh)
    rank: int = 0
    device_mesh: DeviceMesh | None = None
    limit: timedelta | None = None
    """After so long a collective fails, whichever group it is in; None leaves each group its own limit."""

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

    def over(self, *names: str) -> DeviceMesh:
        """Directions of the mesh as one, with the replicas of hybrid sharding before it where there are several."""
        assert self.device_mesh is not None
        flat = limited(self.device_mesh[names]._flatten("_".join(names)), self.limit)
        if self.device_mesh["replica"].size() == 1:
            return flat
        return DeviceMesh._concatenate([self.device_mesh["replica"], flat])

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Within it, all processes wait for each other as long as it takes: for work that no watchdog watches."""
        if self.limit is None:
            yield
            return
        _set_pg_timeout(FOR_EVER)
        try:
            yield
        finally:
            _set_pg_timeout(self.limit)

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
        if self.device_mesh is None and failure is not None:
            raise failure
        for rank, found in enumerate(failures):
            if found is not None:
                named = found if found.everywhere else type(found)(f"rank {rank}: {found}")
                named.everywhere = True
                raise named from failure
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
    limit = timedelta(seconds=LATER * timeout_s) if timeout_s else FOR_EVER
    dist.init_process_group(backend, timeout=limit)
    try:
        yield arrange(mesh, device, limit)
    finally:
        dist.destroy_process_group()


def arrange(mesh: Mesh, device: torch.device, limit: timedelta | None = None) -> World:
    """The processes that have joined, in the order of the mesh: neighbours in `tensor` have neighbouring ranks.

    A collective that takes longer than `limit` fails; None leaves each group its own limit.
    """
    shape = (mesh.replicas, mesh.data // mesh.replicas, mesh.context, mesh.tensor)
    device_mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replica", "shard", "context", "tensor"))
    return World(mesh, dist.get_rank(), limited(device_mesh, limit), limit)


def limited(device_mesh: DeviceMesh, limit: timedelta | None) -> DeviceMesh:
    """Gives all groups of a mesh this limit: torch makes them with its own, whatever the default group has."""
    if limit is not None:
        for group in device_mesh.get_all_groups():
            _set_pg_timeout(limit, group)
    return device_mesh
