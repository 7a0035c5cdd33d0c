"""One rank of two that save beside training, on a CPU, where a disk is slow or fails; leaves `saving-<rank>.json`.

torchrun --nproc-per-node 2 saving.py <case.json> <folder>
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
import torch.distributed as dist
from cases import VOCABULARY, Made, model_config, training_of
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from sidewinder.config.mesh import Mesh
from sidewinder.errors import CheckpointError
from sidewinder.model import init_weights
from sidewinder.train import saver as saving
from sidewinder.train.loop import Trainer
from sidewinder.train.parallel.parallelize import parallelize
from sidewinder.train.parallel.weights import storing
from sidewinder.train.parallel.world import World, arrange
from sidewinder.train.saver import Saver

CPU = torch.device("cpu")
write_data, measured = FileSystemWriter.write_data, saving.measured


def train(case: dict[str, Any], folder: Path, world: World, asynchronous: bool) -> None:
    training = training_of(case, world.mesh)
    model = parallelize(model_config(case), VOCABULARY, training, world, CPU)
    init_weights(model, 3, storing(model, world))
    trainer = Trainer("test", folder, "a" * 64, model, Made(training.context_tokens), training, world)
    trainer.saver.asynchronous = asynchronous
    trainer.run()


def with_a_slow_disk(case: dict[str, Any], folder: Path, world: World) -> list[str]:
    """Trains with one; the threads that took digests."""
    threads: list[str] = []

    def slowly(writer: Any, *options: Any) -> Any:
        time.sleep(3)
        return write_data(writer, *options)

    def noted(paths: Any) -> Any:
        threads.append(threading.current_thread().name)
        return measured(paths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSystemWriter, "write_data", slowly)
        patch.setattr(saving, "measured", noted)
        train(case, folder, world, asynchronous=True)
    return threads


def failing_on_the_last(world: World, work: Callable[..., Any]) -> Callable[..., Any]:
    def fail(*options: Any) -> Any:
        if world.rank == world.size - 1:
            raise PermissionError(13, "Permission denied")
        return work(*options)

    return fail


def with_a_failing_disk(state: Path, world: World, asynchronous: bool) -> dict[str, str]:
    """What a save tells where the last rank cannot write, and where it cannot read what it wrote; then saves."""
    assert world.device_mesh is not None
    tensor = distribute_tensor(torch.arange(5.0), world.device_mesh["shard"], [Shard(0)])  # Three numbers and two.
    assert isinstance(tensor, DTensor)
    writer, told = Saver(state, "a" * 64, world, keep=2, asynchronous=asynchronous), {}
    places = {"write": (FileSystemWriter, "write_data", write_data), "read": (saving, "measured", measured)}
    for what, (place, name, work) in places.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, name, failing_on_the_last(world, work))
            writer.start(1, 10, {"weights/w": tensor})
            with pytest.raises(CheckpointError) as caught:
                writer.finish()
        assert caught.value.everywhere
        told[what] = str(caught.value)
        world.gathered(None)
        told[f"{what} left"] = str(sorted(path.name for path in state.iterdir()))
        world.gathered(None)
    writer.start(2, 20, {"weights/w": tensor})
    writer.finish()
    return told


def main() -> None:
    case, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    dist.init_process_group("gloo")
    world = arrange(Mesh(**case["mesh"]), CPU)
    train(case, folder / "waiting", world, asynchronous=False)
    found: dict[str, Any] = {"threads": with_a_slow_disk(case, folder / "beside", world)}
    for kind in ("waiting", "beside"):
        found[kind] = with_a_failing_disk(folder / f"failing-{kind}", world, kind == "beside")
    (folder / f"saving-{world.rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
