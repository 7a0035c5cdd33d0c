"""What Snakemake is about to submit, checked against the cluster before the first job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sidewinder.cluster.ask import ask_of, launcher_of
from sidewinder.cluster.check import Wanted, check_wanted, of_training
from sidewinder.graph import Graph


def check_jobs(graph: Graph, workflow: Any) -> None:
    """Raises ClusterError, all faults at once, where Slurm would not take a job of a Snakemake workflow.

    Does nothing where the workflow runs on this machine alone.
    """
    if workflow.non_local_exec:
        check_wanted(dict.fromkeys(_wanted(graph, workflow.dag.needrun_jobs())))


def _wanted(graph: Graph, jobs: Any) -> Iterator[Wanted]:
    for job in jobs:
        if not job.is_local:
            yield _of_executor(job.rule.name, job.resources, job.threads)
        elif job.rule.name in ("pretrain", "extend"):
            stage = graph.stage_at(Path(job.output[0]).parent)
            ask = ask_of(job.resources)
            if launcher_of(graph.study.cluster.launcher, ask, stage.training.mesh.processes) == "slurm":
                yield of_training(job.rule.name, ask, stage.training)


def _of_executor(rule: str, resources: Mapping[str, Any], threads: int) -> Wanted:
    """A job that Snakemake's Slurm executor submits."""
    flags = [f"--cpus-per-task={threads}", f"--mem={resources.get('mem_mb', 0)}"]
    flags += [f"--gpus={resources['gpu']}"] if resources.get("gpu") else []
    flags += [f"--{key}={resources[key]}" for key in ("qos", "constraint") if resources.get(key)]
    partition, account = (str(resources.get(key) or "") for key in ("slurm_partition", "slurm_account"))
    return Wanted(rule, partition, account, int(resources.get("runtime") or 0), tuple(flags))
