"""Processes that share one evaluation: each holds the model and takes its part of the batches.

Started by torchrun, one a GPU. Every process builds the same requests and the same batches, takes every n-th, and gets
all answers at the end; so results do not depend on the number of processes, and nothing but answers is exchanged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the evaluation; by default the only one."""

    rank: int = 0
    world: int = 1

    def own(self, things: Sequence[Thing]) -> list[Thing]:
        """This process's part: every `world`-th, so that sorted work is spread evenly."""
        return list(things[self.rank :: self.world])

    def gather(self, part: dict[str, Any]) -> dict[str, Any]:
        """The parts of all processes together, on every process."""
        if self.world == 1:
            return part
        parts: list[Any] = [None] * self.world
        distributed.all_gather_object(parts, part)
        return {key: value for one in parts for key, value in one.items()}

    def told(self, value: Thing) -> Thing:
        """What the first process says, on every process."""
        if self.world == 1:
            return value
        said = [value]
        distributed.broadcast_object_list(said, src=0)
        return said[0]

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.world > 1:
            distributed.barrier()


def join() -> Ranks:
    """Joins the processes that torchrun started; one process alone is fine as well."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks()
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")  # Answers are Python objects; no tensor of a GPU is exchanged.
    return Ranks(distributed.get_rank(), world)


def local_device(name: str | None = None) -> torch.device:
    """The device of this process: its own GPU where there are GPUs, or another one that is named.

    `cuda:0` is what lm-eval's command says where its user says nothing.
    """
    if name not in (None, "cuda", "cuda:0"):
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
