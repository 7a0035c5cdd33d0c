"""One rank of a run whose last rank stays in a layer for ever; `limits-<rank>.json` tells the limit of every group.

torchrun --nproc-per-node 4 limits.py <case.json> <folder>
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from cases import VOCABULARY, Made, model_config, training_of
from torch.distributed import distributed_c10d as c10d

from sidewinder.config.mesh import Mesh
from sidewinder.model import init_weights
from sidewinder.train.loop import Trainer
from sidewinder.train.parallel.parallelize import parallelize
from sidewinder.train.parallel.weights import storing
from sidewinder.train.parallel.world import join

CPU = torch.device("cpu")


def limits_s() -> dict[str, float]:
    """Seconds after which a collective of a group fails, for all groups of this process."""
    groups = {group.group_name: group._get_backend(CPU) for group in c10d._world.pg_map}
    return {name: backend.options._timeout.total_seconds() for name, backend in groups.items()}


def main() -> None:
    case, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    # What torch gives to a group that is made without a limit: half an hour, which would be long for a test.
    c10d.default_pg_timeout = timedelta(seconds=case["torch_limit_s"])
    mesh = Mesh(**case["mesh"])
    training = training_of(case, mesh)
    with join(mesh, CPU, timeout_s=training.hang_timeout_s) as world:
        model = parallelize(model_config(case), VOCABULARY, training, world, CPU)
        init_weights(model, 3, storing(model, world))
        trainer = Trainer("test", folder, "a" * 64, model, Made(training.context_tokens), training, world)
        (folder / f"limits-{world.rank}.json").write_text(json.dumps(limits_s()))

        def stay(*_: Any) -> None:
            while world.rank == world.size - 1:
                time.sleep(1)

        model.stack[-1].register_forward_pre_hook(stay)
        trainer.run()


if __name__ == "__main__":
    main()
