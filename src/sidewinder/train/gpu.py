"""Which GPU of a machine a process takes, and whether there are enough."""

from __future__ import annotations

import fcntl
import os
import tempfile
from functools import cache
from itertools import count
from pathlib import Path
from typing import IO

from sidewinder.errors import ConfigError

_held: list[IO[str]] = []  # Open for the life of the process: the kernel frees the locks when it ends.


@cache
def own_gpu(gpus: int) -> int:
    """Place of this process's GPU among the `gpus` that it sees.

    A rank of a mesh has its local rank's. A process alone takes one that the fewest others of this user have taken, so
    that stages which run side by side spread over all.
    """
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"]) % gpus
    if gpus == 1:
        return 0
    folder = Path(tempfile.gettempdir()) / f"sidewinder-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = seen if len(seen) == gpus else [str(gpu) for gpu in range(gpus)]
    for others in count():
        for place, name in enumerate(names):
            if _takes(folder / f"{name}.{others}"):
                return place
    raise AssertionError("unreachable")


def check_gpus(processes: int, device: str) -> None:
    """Raises ConfigError where the GPUs here are fewer than the processes to start; without any, a CPU serves all."""
    import torch

    here = 0 if device == "cpu" else torch.cuda.device_count()
    if 0 < here < processes:
        raise ConfigError(
            f"training.mesh asks for {processes} processes, one a GPU, but this machine (or job) has {here} GPUs",
            remedy="choose a smaller training.mesh, ask for a machine with more, or start the processes of several "
            "machines with torchrun or Slurm",
        )


def _takes(slot: Path) -> bool:
    """Whether this process now holds a slot, which is another's if it does not."""
    lock = slot.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return False
    _held.append(lock)
    return True
