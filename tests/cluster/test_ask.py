"""What a stage asks of a cluster: from the profile's resources to nodes, tasks and launcher."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidewinder.cluster.ask import HERE, Ask, ask_of, launcher_of, parse_ask, shape_of
from sidewinder.cluster.check import minutes, remedy
from sidewinder.cluster.submit import clean_environment
from sidewinder.config.training import Training
from sidewinder.errors import ConfigError

PROFILE = Path(__file__).parents[2] / "slurm" / "profile.v9+.yaml"


def training(data: int, **settings: Any) -> Training:
    values = {"context_tokens": 8, "batch_sequences": data, "budget_tokens": 800 * data, "mesh": {"data": data}}
    return Training.model_validate(values | {"learning_rate": 1.0, "minimum_learning_rate": 1.0} | settings)


def test_shipped_profile_states_resources_that_training_understands() -> None:
    resources = yaml.safe_load(PROFILE.read_text())["set-resources"]
    assert ask_of(resources["pretrain"]).launcher == "slurm"
    unknown = resources["pretrain"].keys() - vars(Ask()).keys()
    assert not unknown


def test_options_say_what_was_asked() -> None:
    ask = Ask(launcher="slurm", slurm_extra="--exclude=n3 --exclusive", runtime=90)
    words = shlex.split(ask.options())
    assert words[::2] == ["--ask"] * 3
    assert parse_ask(words[1::2]) == ask


def test_resources_of_other_kinds_are_passed_over() -> None:
    assert ask_of({"tmpdir": "/tmp", "mem_mb": 4000, "runtime": 30, "slurm_account": None}) == Ask(runtime=30)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"runtme: unknown; nearest: runtime(.|\n)*gpus_per_node: 'x' is not a whole"):
        parse_ask(["runtme=5", "gpus_per_node=x"])


@pytest.mark.parametrize(
    ("ask", "processes", "device", "nodes", "tasks", "gpus"),
    [
        (Ask(gpus_per_node=8), 1, "auto", 1, 1, 1),
        (Ask(gpus_per_node=8), 16, "auto", 2, 8, 8),
        (Ask(gpus_per_node=8), 12, "auto", 2, 6, 6),  # Equally many on each node.
        (Ask(gpus_per_node=4), 7, "auto", 7, 1, 1),
        (Ask(gpus_per_node=8), 16, "cpu", 2, 8, 0),
        (Ask(tasks_per_node=2), 4, "auto", 2, 2, 0),
        (Ask(), 4, "auto", 1, 4, 0),
    ],
)
def test_processes_are_spread_over_nodes(
    ask: Ask, processes: int, device: str, nodes: int, tasks: int, gpus: int
) -> None:
    shape = shape_of(ask, training(processes, device=device, threads=3))
    assert (shape.nodes, shape.tasks_per_node, shape.gpus_per_node) == (nodes, tasks, gpus)
    assert shape.tasks == processes
    assert shape.cpus_per_task == 3
    assert shape.mem_mb_per_node == tasks * ask.mem_mb_per_task


@pytest.mark.parametrize(
    ("chosen", "launcher", "processes", "expected"),
    [
        ("auto", "", 1, HERE),
        ("auto", "", 4, "local"),
        ("auto", "slurm", 1, "slurm"),
        ("local", "slurm", 1, "local"),
        ("debug", "", 1, "debug"),
    ],
)
def test_launcher(chosen: str, launcher: str, processes: int, expected: str) -> None:
    assert launcher_of(chosen, Ask(launcher=launcher), processes) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5:00", 5), ("01:30:00", 90), ("30-00:00:00", 43200), ("00:00:30", 1), ("UNLIMITED", None), ("", None)],
)
def test_time_limits_of_slurm(text: str, expected: int | None) -> None:
    assert minutes(text) == expected


def test_unknown_refusals_have_a_remedy_too() -> None:
    assert "sinfo" in remedy("sbatch: error: invalid partition specified: x")
    assert "slurm/profile" in remedy("something that nobody has seen before")


def test_jobs_do_not_inherit_the_job_that_submits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SUBMITIT_FOLDER", "RANK", "SLURM_CONF", "SLURMISH"):
        monkeypatch.setenv(key, "x")
    kept = clean_environment()
    assert {"SLURM_CONF", "SLURMISH"} <= kept.keys()
    assert not {"SLURM_JOB_ID", "SBATCH_PARTITION", "SUBMITIT_FOLDER", "RANK"} & kept.keys()
