"""Processes that share one evaluation: each holds the model and takes its part of the batches.

Started by `sidewinder evaluate` (processes.py) or by torchrun, one a GPU. Every process builds the same requests and
the same batches, takes every n-th, and gets all answers at the end; so results do not depend on the number of
processes, and nothing but answers is exchanged.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from sidewinder.errors import SidewinderError

Thing = TypeVar("Thing")
Key = TypeVar("Key", bound=Hashable)
PATIENCE = timedelta(days=2)
"""How long a process waits for another one at most; one that has ended ends the others at once."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the evaluation; by default the only one."""

    rank: int = 0
    world: int = 1

    def rounds(self, things: Sequence[Thing]) -> Iterator[tuple[Sequence[Thing], Sequence[Thing]]]:
        """(own, all) of each round: every process takes one thing, or in the last round perhaps none.

        Neighbours go to different processes, so that sorted work is spread evenly.
        """
        for start in range(0, len(things), self.world):
            everyones = things[start : start + self.world]
            yield everyones[self.rank : self.rank + 1], everyones

    def together(self, find: Callable[[], dict[Key, Any]]) -> dict[Key, Any]:
        """What `find` gives on each process, all of it on every process.

        Where it raises a SidewinderError on one of them, all raise it, so that none waits for another.
        """
        if self.world == 1:
            return find()
        found: dict[Key, Any] = {}
        failure: SidewinderError | None = None
        try:
            found = find()
        except SidewinderError as error:
            failure = error
        parts: list[Any] = [None] * self.world
        distributed.all_gather_object(parts, (found, failure))
        failures = [failed for _, failed in parts if failed]
        if failures:
            failures[0].everywhere = True  # One process tells.
            raise failures[0]
        return {key: value for one, _ in parts for key, value in one.items()}

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
        # Answers are Python objects; no tensor of a GPU is exchanged.
        distributed.init_process_group("gloo", timeout=PATIENCE)
        atexit.register(distributed.destroy_process_group)
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
