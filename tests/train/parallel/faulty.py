"""One rank of two runs: one undisturbed, one in which the last rank is late for data, and its weights are spoilt once,
before step 4.

python -m torch.distributed.run --nproc-per-node 2 faulty.py case.json folder
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

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


def train(case: dict[str, Any], folder: Path, spoil_at: int | None) -> None:
    world = arrange(Mesh(**case["mesh"]), torch.device("cpu"))
    training = training_of(case, world.mesh)
    model = parallelize(model_config(case), VOCABULARY, training, world, torch.device("cpu"))
    init_weights(model, 3, storing(model, world))
    batches = Made(training.context_tokens)
    trainer = Trainer("test", folder, "a" * 64, model, batches, training, world)
    read, left = batches.sequences, iter([True])

    def sequences(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        last_rank, step = world.rank == world.size - 1, first // training.batch_sequences + 1
        if last_rank and spoil_at:
            time.sleep(0.5)
        if last_rank and step == spoil_at and next(left, False):
            own = trainer.engine.parameters[0].detach()
            getattr(own, "to_local", lambda: own)().fill_(math.inf)
        return read(first, count)

    batches.sequences = sequences  # type: ignore[method-assign]
    trainer.run()


def main() -> None:
    case, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    dist.init_process_group("gloo")
    loop.PROBE_EVERY_STEPS = 4
    train(case, folder / "whole", None)
    train(case, folder / "faulty", 4)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
