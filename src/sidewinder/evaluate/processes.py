"""The processes of a suite: what a job of it takes of a machine, and how `sidewinder evaluate` starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sidewinder.errors import EvaluationError
from sidewinder.graph import Graph

PROCESS_MEM_MB = 16_000
"""Of the machine's memory, for lm-eval, its data sets and samples; weights pass through tensor by tensor."""


@dataclass(frozen=True)
class Size:
    """What a job takes, all processes together. Snakemake and Slurm are told."""

    processes: int
    threads: int
    gpus: int
    mem_mb: int


def size_of(graph: Graph, folder: Path) -> Size:
    """Of the job that fills an evaluation folder: its suite's `processes`, the threads and device of its stage."""
    stage, suite = graph.evaluation_at(folder)
    processes = graph.study.suites[suite].processes
    gpus = 0 if stage.training.device == "cpu" else processes
    return Size(processes, processes * stage.training.threads, gpus, processes * PROCESS_MEM_MB)


def size_at(graph: Graph, run: str, stage: str, suite: str) -> Size:
    """As `size_of`, for the folder names that Snakemake calls wildcards."""
    return size_of(graph, graph.results / "runs" / run / stage / "eval" / suite)


def start(graph: Graph, into: Path, config: Path) -> None:
    """Runs a suite in this process, or in its own processes where nobody has started them.

    Raises EvaluationError where the GPUs here are fewer than the processes, and what `evaluate` raises.
    """
    stage, suite = graph.evaluation_at(into)
    processes = graph.study.suites[suite].processes
    if processes == 1 or "RANK" in os.environ:
        from sidewinder.evaluate.run import evaluate

        evaluate(graph, stage, suite)
        return
    from sidewinder.train.parallel.spawn import spawn

    _check_gpus(suite, processes, stage.training.device)
    command = ["evaluate", "--into", str(into), "--config", str(config)]
    spawn(processes, command, goes_on="from the tasks and answers that it has")


def _check_gpus(suite: str, processes: int, device: str) -> None:
    import torch

    here = 0 if device == "cpu" else torch.cuda.device_count()
    if 0 < here < processes:
        raise EvaluationError(
            f"suites.{suite}.processes is {processes}, but this machine (or job) has {here} GPUs",
            remedy=f"set it to {here} (no result changes), or ask for a machine with more",
        )
