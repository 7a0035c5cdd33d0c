"""Training over several GPUs, and models and contexts that fill one: speed, memory and utilisation.

    torchrun --nproc-per-node 2 benchmarks/parallel.py [--parts efficiency long large] [--steps 8] [--json out.json]
    python benchmarks/parallel.py --parts long large                      # on one GPU
    torchrun --nproc-per-node 2 benchmarks/parallel.py --tiny             # to try it on CPUs

`efficiency`: a 1B hybrid, 4 × 4096 tokens a process and step, on the first process alone, then on all: weights sharded
over all (FSDP), and a copy on each. `efficiency` is the tokens a second of a GPU among all over those of the one alone.
`long`: one sequence of 131,072 tokens a step through that model, a stretch of it on each process (context parallelism).
`large`: the paper's 8B hybrid (`studies/paper-8b.yaml`), one sequence of 4,096 tokens a process and step, weights
sharded over all. Both compute activations again in the backward pass.

Each step is the loop's own: data, gradients, their exchange, clipping, update; a time is the median of the steps after
the warm-up, by the wall clock. `peak_gib` is the most that PyTorch held for the first process. More processes than GPUs
share them through gloo: that shows that it works and how much a process holds, and says nothing of the speed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from shared_gpu import join
from sidewinder.config.load import load_study
from sidewinder.config.mesh import Mesh
from sidewinder.config.model import Attention, Mamba2, Mlp, ModelConfig
from sidewinder.config.training import Training
from sidewinder.model import init_weights
from sidewinder.model.count import count_parameters, flops_per_token
from sidewinder.train.device import memory_bytes, prepare_torch
from sidewinder.train.hardware import peak_of, utilisation
from sidewinder.train.loop import Trainer
from sidewinder.train.parallel.parallelize import parallelize
from sidewinder.train.parallel.weights import storing
from sidewinder.train.parallel.world import World, arrange
from timing import machine
from train_step import PAIRS, VOCABULARY, WARM_UPS, Sequences

PARTS = ("efficiency", "long", "large")
PAPER = Path(__file__).parents[1] / "studies" / "paper-8b.yaml"
LIMIT_S = 300
"""Of a collective: where one process ran out of memory, the others end too."""
TINY = ModelConfig(
    pattern="M-M*-M-",
    hidden_size=64,
    attention=Attention(heads=4, kv_heads=2, head_size=16),
    mlp=Mlp(size=128),
    mamba2=Mamba2(state_size=16, head_size=16, groups=2, chunk=32),
)


@dataclass(frozen=True)
class Case:
    """A model and its step on a mesh; `alone` leaves all but the first process out."""

    part: str
    name: str
    config: ModelConfig
    vocabulary: int
    context_tokens: int
    batch_sequences: int
    mesh: Mesh
    recompute: str = ""
    alone: bool = False


def cases(options: argparse.Namespace, processes: int) -> Iterator[Case]:
    """What is measured on so many processes, in order."""
    sizes = (TINY, VOCABULARY, 64) if options.tiny else (PAIRS["hybrid"].config, VOCABULARY, 4096)
    data = Mesh(data=processes)
    if "efficiency" in options.parts:
        yield Case("efficiency", "alone", *sizes, 4, Mesh(), alone=True)
    if "efficiency" in options.parts and processes > 1:
        yield Case("efficiency", "sharded", *sizes, 4 * processes, data)
        yield Case("efficiency", "copied", *sizes, 4 * processes, data.model_copy(update={"replicas": processes}))
    if "long" in options.parts:
        yield Case("long", "one sequence", *sizes[:2], 32 * sizes[2], 1, Mesh(context=processes), "M*-")
    if "large" in options.parts:
        large = sizes if options.tiny else (load_study(PAPER).models["hybrid"], options.vocabulary, 4096)
        yield Case("large", "8B hybrid", *large, processes, data, "M*-")


def training_of(case: Case) -> Training:
    return Training(
        context_tokens=case.context_tokens,
        batch_sequences=case.batch_sequences,
        budget_tokens=10**4 * case.batch_sequences * case.context_tokens,
        learning_rate=1e-4,
        minimum_learning_rate=1e-5,
        precision="bfloat16" if torch.cuda.is_available() else "float32",
        mesh=case.mesh,
        recompute=case.recompute,
    )


def seconds_of(case: Case, world: World, device: torch.device, steps: int) -> list[float]:
    """Seconds of each step after the warm-up, on this process."""
    training = training_of(case)
    model = parallelize(case.config, case.vocabulary, training, world, device)
    init_weights(model, 1, storing(model, world))
    batches = Sequences(case.context_tokens, case.vocabulary)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer("benchmark", Path(folder), "0" * 64, model, batches, training, world)
        for step in range(1, WARM_UPS + steps + 1):
            started = time.perf_counter()
            trainer.compute(step)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return seconds[WARM_UPS:]


def measure(case: Case, device: torch.device, steps: int) -> dict[str, Any]:
    """The row of a case; a model that the memory does not suffice for tells so instead of a speed."""
    world = World() if case.alone or case.mesh.processes == 1 else arrange(case.mesh, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {"part": case.part, "case": case.name, "processes": world.size}
    row |= {"parameters": count_parameters(case.config, case.vocabulary).total, "context_tokens": case.context_tokens}
    try:
        seconds = seconds_of(case, world, device, steps)
    except torch.OutOfMemoryError as error:
        return row | {"error": str(error)[:200], "peak_gib": round(memory_bytes(device) / 2**30, 1)}
    speed = case.batch_sequences * case.context_tokens / statistics.median(seconds)
    flops = flops_per_token(case.config, case.vocabulary, case.context_tokens)
    used = utilisation(flops, speed, world.size, peak_of(device))
    row |= {"tokens_per_s_per_gpu": round(speed / world.size, 1), "spread": round(max(seconds) / min(seconds), 3)}
    row |= {"step_s": round(statistics.median(seconds), 4), "peak_gib": round(memory_bytes(device) / 2**30, 1)}
    return row | ({"mfu": round(used, 4)} if used else {})


def main() -> None:
    options = parse()
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    listed = list(cases(options, processes))
    device = prepare_torch(training_of(listed[0]))
    shared = processes > 1 and join(timedelta(seconds=LIMIT_S))
    rows: list[dict[str, Any]] = []
    for case in listed:
        if not (case.alone and rank):
            row = measure(case, device, options.steps) | ({"shared_gpu": True} if shared else {})
            tell(row, rows, options.json, told=rank == 0)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if processes > 1:
            dist.barrier()
    if processes > 1:
        dist.destroy_process_group()


def tell(row: dict[str, Any], rows: list[dict[str, Any]], file: Path | None, *, told: bool) -> None:
    """Adds a row, and prints it on the first process."""
    alone = next((row["tokens_per_s_per_gpu"] for row in rows if row["case"] == "alone"), None)
    if row["part"] == "efficiency" and alone and "error" not in row:
        row["efficiency"] = round(row["tokens_per_s_per_gpu"] / alone, 4)
    rows.append(row)
    if told:
        print(json.dumps(row), flush=True)
        if file:
            file.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=256_000, help="of the 8B hybrid")
    parser.add_argument("--tiny", action="store_true", help="a small model and short sequences")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        sys.exit("parallel: no GPU here; the figures would say nothing (--tiny tries it all the same)")
    return options


if __name__ == "__main__":
    main()
