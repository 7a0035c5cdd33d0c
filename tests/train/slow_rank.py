"""One of two ranks, of which the last has a slow device and disk, uses more memory, and has a weight spoilt once.

python -m torch.distributed.run --nproc-per-node 2 slow_rank.py folder
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "parallel"))

import numpy as np
import torch
import torch.distributed as dist
from cases import VOCABULARY, Made, model_config, training_of

from sidewinder.config.mesh import Mesh
from sidewinder.model import init_weights
from sidewinder.train import loop
from sidewinder.train.loop import Trainer
from sidewinder.train.parallel.parallelize import parallelize
from sidewinder.train.parallel.weights import storing
from sidewinder.train.parallel.world import arrange

STEPS, SPOILT = 6, 4
TRAINING = {"budget_tokens": STEPS * 8 * 32, "save_every_tokens": 2 * 8 * 32}
MEMORY_BYTES = (2**30, 3 * 2**30)


def main() -> None:
    dist.init_process_group("gloo")
    world, case = arrange(Mesh(data=2), torch.device("cpu")), {"architecture": "mamba2", "training": TRAINING}
    training = training_of(case, world.mesh)
    model = parallelize(model_config(case), VOCABULARY, training, world, torch.device("cpu"))
    init_weights(model, 3, storing(model, world))
    batches = Made(training.context_tokens)
    trainer = Trainer("test", Path(sys.argv[1]), "a" * 64, model, batches, training, world)
    loop.PROBE_EVERY_STEPS = 3
    loop.probe_s = lambda device: 1.0 + world.rank
    loop.memory_bytes = lambda device: MEMORY_BYTES[world.rank]
    read, update, left = batches.sequences, trainer.engine.update, iter([True])

    def sequences(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(0.2 * world.rank)
        return read(first, count)

    def spoiling(step: int, norm: float) -> None:
        update(step, norm)
        if world.rank == 1 and step == SPOILT and next(left, False):
            trainer.engine.parameters[0].detach().to_local().view(-1)[0] = math.nan

    batches.sequences, trainer.engine.update = sequences, spoiling  # type: ignore[method-assign]
    trainer.run()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
