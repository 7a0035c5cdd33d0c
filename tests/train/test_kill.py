"""SIGKILL of real training processes, at random instants and while they save: the end is always the same bits."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidewinder.config.load import write_study
from sidewinder.graph import Graph, Stage
from sidewinder.train.metrics import read_metrics
from sidewinder.train.pretrain import pretrain

Make = Callable[..., Any]
# Imports torch once, in a server that never computes, and forks each training process from it.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["sidewinder.train.pretrain", "torch._dynamo"])
LONG = {"budget_tokens": 60 * 4 * 32, "save_every_tokens": 1, "learning_rate": 1e-2}


def start(graph: Graph, stage: Stage) -> Any:
    process = FORKSERVER.Process(target=pretrain, args=(graph, stage))
    process.start()
    return process


def result(stage: Stage) -> tuple[bytes, list[float]]:
    rows = read_metrics(stage.folder / "metrics.jsonl").steps
    return (stage.folder / "checkpoint/model.safetensors").read_bytes(), [row["loss"] for row in rows]


def run_killed(graph: Graph, stage: Stage, seed: int) -> int:
    """Kills 5 processes a few events and a random while after their start, every second one during a save.

    Events (rows of metrics) and not seconds alone, so that each gets somewhere on a slow machine too. Returns how many
    were hit alive.
    """
    generator, kills = random.Random(seed), 0
    for attempt in range(5):
        least = events(stage) + generator.randint(3, 9)
        process = start(graph, stage)
        while process.is_alive() and events(stage) < least:
            time.sleep(0.001)
        due = time.monotonic() + generator.uniform(0, 0.04)
        while process.is_alive() and not (time.monotonic() > due and (attempt % 2 or is_saving(stage))):
            time.sleep(0.0005)
        kills += process.is_alive()
        process.kill()
        process.join()
    process = start(graph, stage)
    process.join()
    assert process.exitcode == 0
    return kills


def events(stage: Stage) -> int:
    path = stage.folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def is_saving(stage: Stage) -> bool:
    return any((stage.folder / "state").glob(".step-*.part"))


@pytest.mark.parametrize("model", ["transformer", "mamba", "mamba2", "hybrid"])
def test_killed_runs_end_bit_equal(model: str, tmp_path: Path, make_graph: Make, stage_of: Make) -> None:
    whole = make_graph(tmp_path / "whole", **LONG)
    undisturbed = stage_of(whole, model)
    pretrain(whole, undisturbed)
    graph = make_graph(tmp_path / "killed", **LONG)
    stage = stage_of(graph, model)
    kills = run_killed(graph, stage, seed=len(model))
    assert kills >= 4
    assert result(stage) == result(undisturbed)
    assert len(result(stage)[1]) == 60
    resumed = [attempt["from_step"] for attempt in read_metrics(stage.folder / "metrics.jsonl").attempts]
    assert resumed == sorted(resumed)
    assert len(set(resumed)) >= 2
    assert not (stage.folder / "state").exists()


def test_command_stops_on_sigterm_and_goes_on(tmp_path: Path, make_graph: Make, stage_of: Make) -> None:
    """The command itself: exit status 1 and a message for SIGTERM, then the rest of the work on the next start."""
    graph = make_graph(tmp_path, **LONG)
    stage = stage_of(graph, "transformer")
    write_study(graph.study, tmp_path / "study.json")
    command = [sys.executable, "-c", "from sidewinder.cli import main; main()", "pretrain"]
    command += ["--config", str(tmp_path / "study.json"), "--into", str(stage.folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((stage.folder / "state").glob("step-*")):
        time.sleep(0.005)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "error: transformer-s1 pretrain-32: SIGTERM at step " in errors
    assert "Traceback" not in errors
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert "goes on from step " in done.stderr
    assert stage.record.is_file()
