"""`sidewinder pretrain` with a mesh, as a user runs it: its ranks are started, watched, stopped and ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sidewinder.cli import pretrain
from sidewinder.config.load import write_study
from sidewinder.errors import ConfigError
from sidewinder.graph import Stage
from sidewinder.record import exclusive, read_record
from sidewinder.train.gpu import check_gpus
from sidewinder.train.metrics import read_metrics

Make = Callable[..., Any]
LONG = {"mesh": {"data": 2}, "budget_tokens": 10**4 * 4 * 32, "save_every_tokens": 10 * 4 * 32}


class Run:
    """A command in a session of its own, all of whose processes end with the test."""

    def __init__(self, stage: Stage, study: Path) -> None:
        self.stage = stage
        command = [sys.executable, "-m", "sidewinder", "pretrain", "--into", str(stage.folder), "--config", str(study)]
        environment = {key: value for key, value in os.environ.items() if key != "SIDEWINDER_PROGRESS"}
        self.errors = study.with_suffix(".err").open("w+")
        self.process = subprocess.Popen(
            command, stderr=self.errors, start_new_session=True, env=environment | {"OMP_NUM_THREADS": "1"}
        )

    def ranks(self) -> list[int]:
        """Process ids of the ranks, in order."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, children))

    def reach(self, step: int) -> None:
        """Waits until a step is made."""
        while not any(row["step"] >= step for row in read_metrics(self.stage.folder / "metrics.jsonl").steps):
            assert self.process.poll() is None, self.told()
            time.sleep(0.02)

    def told(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def end(self) -> None:
        for pid in [*self.ranks(), self.process.pid] if self.process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path, make_graph: Make, stage_of: Make) -> Iterator[Callable[..., Run]]:
    """`start(**training)`: the hybrid's pretraining, started from the command line."""
    runs = []

    def begin(**training: Any) -> Run:
        graph = make_graph(**training)
        write_study(graph.study, tmp_path / "study.json")
        runs.append(Run(stage_of(graph, "hybrid"), tmp_path / "study.json"))
        return runs[-1]

    yield begin
    for run in runs:
        run.end()


def test_a_mesh_on_one_machine(start: Callable[..., Run]) -> None:
    run = start(mesh={"tensor": 1, "context": 2})
    assert run.process.wait(120) == 0, run.told()
    assert run.told().splitlines()[-1].startswith("hybrid-s1 pretrain-32  12/12 step 100 %")
    facts = read_record(run.stage.record)["facts"]
    assert facts["steps"] == 12
    assert [event["processes"] for event in read_metrics(run.stage.folder / "metrics.jsonl").events[:1]] == [2]
    assert not (run.stage.folder / "state").exists()


def test_a_killed_rank_ends_the_others(start: Callable[..., Run]) -> None:
    run = start(**LONG)
    run.reach(12)
    _, second = run.ranks()
    os.kill(second, signal.SIGKILL)
    assert run.process.wait(60) == 1
    assert f"rank 1 of 2 (process {second}) ended by SIGKILL; the other ranks were ended with it" in run.told()
    assert "goes on from the newest save" in run.told()
    assert list((run.stage.folder / "state").glob("step-*"))


def test_a_hung_rank_is_found(start: Callable[..., Run]) -> None:
    """A stopped process answers nobody: the watchdog of the one that waits for it says where, and ends all."""
    run = start(**LONG, hang_timeout_s=5)
    run.reach(3)
    _, second = run.ranks()
    os.kill(second, signal.SIGSTOP)
    assert run.process.wait(90) == 1
    told = run.told()
    assert "rank 0 (process" in told
    assert "made no progress" in told
    assert "ended with status 124" in told
    stacks = next(run.stage.folder.glob("stacks-rank0-*.txt")).read_text()
    assert "loop.py" in stacks


def test_a_stop_is_for_all_ranks(start: Callable[..., Run]) -> None:
    run = start(**LONG)
    run.reach(3)
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(60) == 1
    assert "stopped by SIGTERM" in run.told()
    metrics = read_metrics(run.stage.folder / "metrics.jsonl")
    assert metrics.events[-1]["event"] == "stop"
    assert (run.stage.folder / "state" / f"step-{metrics.events[-1]['step']:08d}").is_dir()


def test_a_stop_waits_for_the_save(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank is slow to save: torch's own limit, here two seconds, would kill both."""
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "2")
    run = start(**LONG)
    run.reach(3)
    _, second = run.ranks()
    os.kill(second, signal.SIGSTOP)
    run.process.send_signal(signal.SIGTERM)
    time.sleep(5)
    assert run.process.poll() is None, run.told()
    os.kill(second, signal.SIGCONT)
    assert run.process.wait(60) == 1
    assert "stopped by SIGTERM" in run.told()
    assert list((run.stage.folder / "state").glob("step-*"))


def test_ranks_end_with_a_killed_launcher(start: Callable[..., Run]) -> None:
    """They save first, so that the next start finds the folder free, and goes on."""
    first = start(**LONG)
    first.reach(3)
    ranks = first.ranks()
    try:
        first.process.kill()
        first.process.wait()
        second = start(**LONG)
        until = time.monotonic() + 60
        while any(map(lives, ranks)):
            assert time.monotonic() < until, first.told()
            time.sleep(0.1)
    finally:
        for rank in filter(lives, ranks):
            os.kill(rank, signal.SIGKILL)
    events = read_metrics(first.stage.folder / "metrics.jsonl").events
    stopped = next(event["step"] for event in events if event["event"] == "stop")
    second.reach(stopped + 1)
    assert f"goes on from step {stopped:,}" in second.told()


def test_a_folder_that_another_run_holds_is_waited_for(start: Callable[..., Run]) -> None:
    """By all ranks, longer than a collective may take within training."""
    run = start(mesh={"data": 2}, hang_timeout_s=5)
    with exclusive(run.stage.folder / ".lock"):
        while "waiting: " not in run.told():
            assert run.process.poll() is None, run.told()
            time.sleep(0.1)
        time.sleep(2 * 5 + 3)
        assert run.process.poll() is None, run.told()
    assert run.process.wait(120) == 0, run.told()


def lives(process: int) -> bool:
    """Whether a process runs; one that has ended may wait for a parent to ask how."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_fewer_gpus_than_processes(make_graph: Make, stage_of: Make, tmp_path: Path, monkeypatch: Any) -> None:
    """Told before anything is started; a CPU serves all."""
    graph = make_graph(mesh={"data": 2})
    write_study(graph.study, tmp_path / "study.json")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"mesh asks for 2 processes, one a GPU, but .* has 1 GPUs") as caught:
        pretrain(stage_of(graph, "hybrid").folder, tmp_path / "study.json")
    assert "remedy: choose a smaller training.mesh" in str(caught.value)
    check_gpus(2, "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_gpus(2, "auto")


def test_an_error_of_one_rank_is_told_once(start: Callable[..., Run], tmp_path: Path) -> None:
    """What all ranks agree on, here divergence, is not told by each of them."""
    run = start(**LONG | {"learning_rate": 1e20}, warmup_sequences=0)
    assert run.process.wait(120) == 1
    assert run.told().count("error: hybrid-s1 pretrain-32: loss nan") == 1
