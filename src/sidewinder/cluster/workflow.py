"""What Snakemake is about to submit, checked against the cluster before the first job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sidewinder.cluster.ask import ask_of, launcher_of
from sidewinder.cluster.check import PROFILE, Wanted, check_wanted, of_training
from sidewinder.errors import ClusterError
from sidewinder.evaluate.processes import size_of
from sidewinder.graph import Graph


def check_jobs(graph: Graph, workflow: Any) -> None:
    """Raises ClusterError, all faults at once, where Slurm would not take a job of a Snakemake workflow.

    Does nothing where the workflow runs on this machine alone.
    """
    if workflow.non_local_exec:
        jobs = list(workflow.dag.needrun_jobs())
        _check_evaluations(graph, [job for job in jobs if job.rule.name == "evaluate"])
        check_wanted(dict.fromkeys(_wanted(graph, jobs)))


def _check_evaluations(graph: Graph, jobs: Iterable[Any]) -> None:
    """Raises ClusterError that lists every suite whose processes would not have a GPU each."""
    faults = []
    for job in jobs:
        folder, gpus = Path(job.output[0]).parent, job.resources.get("gpu") or 0
        wanted = size_of(graph, folder).processes
        if gpus not in (0, wanted):
            _, suite = graph.evaluation_at(folder)
            faults.append(f"suites.{suite}.processes is {wanted}, but its job would have {gpus} GPUs (`gpu`)")
    if faults:
        raise ClusterError(
            "\n  ".join(dict.fromkeys(faults)),
            remedy=f"take `gpu` of `evaluate` out of {PROFILE} (0 evaluates on CPUs), or change `processes`",
        )


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
    flags += [f"--nodes={resources['nodes']}"] if resources.get("nodes") else []
    flags += [f"--{key}={resources[key]}" for key in ("qos", "constraint") if resources.get(key)]
    partition, account = (str(resources.get(key) or "") for key in ("slurm_partition", "slurm_account"))
    return Wanted(rule, partition, account, int(resources.get("runtime") or 0), tuple(flags))
