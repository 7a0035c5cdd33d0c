"""Suites shared by processes: the same results, one error for all, and what a job of them asks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from socket import socket
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sidewinder.cluster.workflow import _check_evaluations
from sidewinder.config.load import parse_study
from sidewinder.errors import ClusterError, EvaluationError
from sidewinder.evaluate import processes
from sidewinder.evaluate.processes import Size, size_of
from sidewinder.evaluate.ranks import Ranks
from sidewinder.evaluate.run import PARTS, evaluate
from sidewinder.graph import Graph, Stage
from sidewinder.record import RECORD, read_record

from . import two_ranks as two_ranks_script

ROOT = Path(__file__).parents[2]
FILES = ("scores.json", "samples.parquet")


def stage_of(graph: Graph, model: str) -> Stage:
    return next(stage for stage in graph.stages if stage.model_name == model)


def with_processes(graph: Graph, count: int, **training: Any) -> dict[str, Any]:
    """The study, each of whose suites has so many processes."""
    study = graph.study.model_dump(mode="json")
    study["training"] |= training
    for suite in study["suites"].values():
        suite["processes"] = count
    return study


def test_two_processes_give_what_one_gives(graph: Graph, tmp_path: Path) -> None:
    """As a rule runs it: the command starts its processes; the first one writes, both answer."""
    stage, suite = stage_of(graph, "transformer"), "cloze"
    folder = graph.evaluation(stage, suite)
    evaluate(graph, stage, suite)
    alone = [(folder / name).read_bytes() for name in FILES]
    for name in (RECORD, f".{RECORD}", *FILES):
        (folder / name).unlink()
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(with_processes(graph, 2)))
    log = tmp_path / "log"
    command = ["evaluate", "--into", str(folder), "--config", str(config), "--log", str(log)]
    done = subprocess.run(
        [sys.executable, "-m", "sidewinder", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [(folder / name).read_bytes() for name in FILES] == alone
    assert read_record(folder / RECORD)["facts"]["samples"] > 0
    assert not (folder / PARTS).exists()
    assert log.read_text().count("log-likelihoods  0/") == 1, "one process tells"


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found (two_ranks.py)."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "1"}
    with socket() as port:
        port.bind(("localhost", 0))
        environment["MASTER_PORT"] = str(port.getsockname()[1])
    command = [sys.executable, two_ranks_script.__file__, str(folder)]
    ranks = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_an_error_of_one_process_is_raised_by_all(two_ranks: list[dict[str, Any]]) -> None:
    assert [found["complaint"] for found in two_ranks] == [
        "True the log-likelihood of x is nan\n  remedy: look at it"
    ] * 2


def test_memory_that_one_process_lacks_halves_the_batches_of_all(two_ranks: list[dict[str, Any]]) -> None:
    """The first process answers 0, 2, 4, 6; the second 1, and 3 and 5 only in smaller batches."""
    assert [found["answers"] for found in two_ranks] == [[8, 8, 8, 4, 8, 4, 8]] * 2


def test_two_processes_share_the_batches(two_ranks: list[dict[str, Any]]) -> None:
    alone = json.loads(json.dumps(two_ranks_script.scores(Ranks())))
    assert [found["scores"] for found in two_ranks] == [alone, alone]


def test_results_do_not_depend_on_the_number_of_processes(graph: Graph) -> None:
    other = Graph(parse_study(with_processes(graph, 8)))
    assert [other.evaluation(stage, "needle") for stage in other.stages] == [
        graph.evaluation(stage, "needle") for stage in graph.stages
    ]


def test_a_job_asks_for_what_its_processes_take(graph: Graph) -> None:
    on_cpu = Graph(parse_study(with_processes(graph, 3, threads=2)))
    folder = on_cpu.evaluation(on_cpu.stages[0], "needle")
    assert size_of(on_cpu, folder) == Size(processes=3, threads=6, gpus=0, mem_mb=48_000)
    on_gpus = Graph(parse_study(with_processes(graph, 3, threads=2, device="auto")))
    folder = on_gpus.evaluation(on_gpus.stages[0], "needle")
    assert size_of(on_gpus, folder) == Size(processes=3, threads=6, gpus=3, mem_mb=48_000)


def test_snakemake_is_told(graph: Graph, tmp_path: Path) -> None:
    config = tmp_path / "study.yaml"
    study = with_processes(graph, 3, device="auto") | {"export": False}
    config.write_text(yaml.safe_dump(study))
    asked = Graph(parse_study(study))
    record = asked.evaluation(stage_of(asked, "mamba"), "needle") / RECORD
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "9", "--configfile", str(config)]
    command += ["--forcerun", "evaluate", "--", str(record)]  # Another test may have made it.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    (job,) = (part for part in done.stdout.split("rule ") if part.startswith("evaluate:"))
    assert "threads: 3" in job
    assert all(asked in job for asked in ("gpu=3", "mem_mb=48000", "nodes=1"))


def test_too_few_gpus_are_named_before_anything_is_submitted(graph: Graph) -> None:
    asked = Graph(parse_study(with_processes(graph, 4, device="auto")))
    folder = asked.evaluation(asked.stages[0], "needle")

    def jobs(gpus: int) -> list[Any]:
        return [SimpleNamespace(output=[str(folder / RECORD)], resources={"gpu": gpus})]

    _check_evaluations(asked, [*jobs(4), *jobs(0)])
    with pytest.raises(ClusterError, match=r"suites.needle.processes is 4, but its job would have 1 GPUs"):
        _check_evaluations(asked, jobs(1))


def test_too_few_gpus_are_named_on_the_machine(graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked = Graph(parse_study(with_processes(graph, 4, device="auto")))
    folder = asked.evaluation(asked.stages[0], "needle")
    with pytest.raises(EvaluationError, match=r"suites.needle.processes is 4, but this machine .* has 2 GPUs"):
        processes.start(asked, folder, tmp_path / "study.yaml")
