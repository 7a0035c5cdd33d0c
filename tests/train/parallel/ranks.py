"""One rank of the tests in test_meshes.py: trains small models on every mesh of its world; rank 0 writes what came out.

torchrun --nproc-per-node 4 ranks.py <cases.json> <folder>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from cases import Made, model_config, training_of

from sidewinder.config.mesh import Mesh
from sidewinder.model import init_weights
from sidewinder.train.loop import Trainer
from sidewinder.train.metrics import read_metrics
from sidewinder.train.parallel.parallelize import parallelize
from sidewinder.train.parallel.weights import storing, whole_state
from sidewinder.train.parallel.world import World, arrange

VOCABULARY = 61


def train(case: dict, folder: Path, world: World) -> None:
    """Trains one case; rank 0 leaves losses, gradient norms and final weights in `folder`."""
    training = training_of(case, world.mesh)
    model = parallelize(model_config(case), VOCABULARY, training, world, torch.device("cpu"))
    init_weights(model, 3, storing(model, world))
    trainer = Trainer("test", folder, "a" * 64, model, Made(VOCABULARY, training.context_tokens), training, world)
    trainer.run()
    weights = dict(whole_state(model, world))
    if world.first:
        torch.save(weights, folder / "weights.pt")
        rows = read_metrics(folder / "metrics.jsonl").steps
        (folder / "rows.json").write_text(json.dumps([[row["loss"], row["gradient_norm"]] for row in rows]))


def main() -> None:
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    dist.init_process_group("gloo")
    for name, case in cases.items():
        train(case, folder / name, arrange(Mesh(**case["mesh"]), torch.device("cpu")))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
