"""One rank of the tests in this folder: trains small models on meshes of its world; rank 0 writes what came out.

torchrun --nproc-per-node 4 ranks.py <cases.json> <folder>
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from cases import VOCABULARY, Made, model_config, training_of

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from shared_gpu import join
from sidewinder.config.mesh import Mesh
from sidewinder.model import init_weights
from sidewinder.train.device import prepare_torch
from sidewinder.train.loop import Trainer
from sidewinder.train.metrics import read_metrics
from sidewinder.train.parallel.parallelize import parallelize
from sidewinder.train.parallel.weights import storing, whole_state
from sidewinder.train.parallel.world import World, arrange
from sidewinder.train.signals import TrainingStopped


class Watched(Made):
    """Notes what is read, and stops the run, or this process, where a case asks for it."""

    def __init__(self, case: dict[str, Any], context_tokens: int, folder: Path, rank: int) -> None:
        super().__init__(context_tokens)
        self.case, self.rank, self.log = case, rank, folder / f"reads-{rank}.jsonl"

    def sequences(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        with self.log.open("a") as stream:
            print(json.dumps([first, count]), file=stream)
        step = first // 8 + 1
        if (self.rank, step) == (dist.get_world_size() - 1 if dist.is_initialized() else 0, self.case.get("stop_at")):
            os.kill(os.getpid(), signal.SIGUSR2)
        return super().sequences(first, count)


def train(case: dict[str, Any], folder: Path, world: World) -> None:
    """Trains one case; rank 0 leaves losses, gradient norms and final weights in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    training = training_of(case, world.mesh)
    model = parallelize(model_config(case), VOCABULARY, training, world, prepare_torch(training))
    init_weights(model, 3, storing(model, world))
    batches = Watched(case, training.context_tokens, folder, world.rank)
    trainer = Trainer("test", folder, "a" * 64, model, batches, training, world)
    with suppress(TrainingStopped):
        trainer.run()
    weights = dict(whole_state(model, world))
    if world.first:
        torch.save(weights, folder / "weights.pt")
        rows = read_metrics(folder / "metrics.jsonl").steps
        (folder / "rows.json").write_text(json.dumps([[row["loss"], row["gradient_norm"]] for row in rows]))


def main() -> None:
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    device = prepare_torch(training_of({}, Mesh()))
    join()
    for name, case in cases.items():
        train(case, folder / name, arrange(Mesh(**case["mesh"]), device))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
