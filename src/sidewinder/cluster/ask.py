"""What a training stage asks of a cluster: from the profile's resources and the stage's own mesh and threads.

Resources have the names that Snakemake's Slurm executor gives them, so that one block of slurm/profile.v9+.yaml serves
all stages; `launcher`, `gpus_per_node`, `tasks_per_node` and `mem_mb_per_task` are for training stages alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

from sidewinder.config.training import Training
from sidewinder.errors import ConfigError

HERE = "here"  # In the rule's own process, without submitit.


@dataclass(frozen=True)
class Ask:
    """Resources of a training stage, as the profile states them; empty or 0 where it leaves them to the cluster."""

    launcher: str = ""
    slurm_partition: str = ""
    slurm_account: str = ""
    qos: str = ""
    constraint: str = ""
    slurm_extra: str = ""
    """More flags for sbatch."""
    runtime: int = 240
    """Time limit of a job, minutes. Training that takes longer goes on in as many turns as it needs."""
    gpus_per_node: int = 0
    """0: train on CPUs."""
    tasks_per_node: int = 0
    """Processes a node where there are no GPUs; 0: all on one node."""
    mem_mb_per_task: int = 4000

    def options(self) -> str:
        """As options of `sidewinder launch`, those that differ from the defaults."""
        plain = asdict(Ask())
        changed = {key: value for key, value in asdict(self).items() if value != plain[key]}
        return " ".join(f"--ask {shlex.quote(f'{key}={value}')}" for key, value in changed.items())


def ask_of(resources: Mapping[str, Any]) -> Ask:
    """The part of a rule's resources that concerns training jobs; everything else is passed over."""
    known = {field.name for field in fields(Ask)}
    return parse_ask(f"{key}={value}" for key, value in resources.items() if key in known and value is not None)


def parse_ask(pairs: Iterable[str]) -> Ask:
    """From `key=value` texts. Raises ConfigError that lists every unknown key and impossible value."""
    kinds = {field.name: type(field.default) for field in fields(Ask)}
    values: dict[str, Any] = {}
    mistakes = []
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in kinds:
            near = get_close_matches(key, kinds, n=1, cutoff=0.0)[0]
            mistakes.append(f"{key}: unknown; nearest: {near}; known: {', '.join(kinds)}")
        elif kinds[key] is int and not value.isdigit():
            mistakes.append(f"{key}: {value!r} is not a whole number")
        else:
            values[key] = int(value) if kinds[key] is int else value
    if values.get("launcher", "slurm") not in ("slurm", "local", "debug"):
        mistakes.append(f"launcher: {values['launcher']!r} is none of slurm, local, debug")
    if values.get("runtime") == 0:
        mistakes.append("runtime: at least one minute")
    if mistakes:
        raise ConfigError(
            "\n  ".join(["resources of a training stage:", *mistakes]), remedy="change them in slurm/profile.v9+.yaml"
        )
    return Ask(**values)


@dataclass(frozen=True)
class Shape:
    """A job's geometry: one task a process of the mesh."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    cpus_per_task: int
    mem_mb_per_node: int

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node


def shape_of(ask: Ask, training: Training) -> Shape:
    """Spreads a stage's processes evenly over the fewest nodes.

    Twelve processes on nodes of eight GPUs become two nodes of six: all nodes of a job have equally many.
    """
    processes = training.mesh.processes
    most = ask.gpus_per_node or ask.tasks_per_node or processes
    tasks = max(count for count in range(1, min(most, processes) + 1) if processes % count == 0)
    gpus = tasks if ask.gpus_per_node and training.device != "cpu" else 0
    return Shape(processes // tasks, tasks, gpus, training.threads, tasks * ask.mem_mb_per_task)


def launcher_of(chosen: str, ask: Ask, processes: int) -> str:
    """slurm, local, debug, or HERE; `chosen` is the study's `cluster.launcher`, which the profile decides if `auto`."""
    if chosen != "auto":
        return chosen
    return ask.launcher or (HERE if processes == 1 else "local")
