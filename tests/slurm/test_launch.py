"""One stage as a job: two controllers at once, cancelled jobs, other launchers, a cluster with little to offer."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from processes import PATIENCE, until
from real_slurm import Cluster, Layout
from started import started
from tiny import SABOTAGE, Tiny

SLOW = {"PYTHONPATH": str(SABOTAGE), "BRAKE_S": "0.2"}
QUICKLY = "runtime=30"


def ended(controller: subprocess.Popen[str], status: int = 0) -> str:
    text, _ = controller.communicate(timeout=PATIENCE * 150)
    assert controller.returncode == status, text
    return text


def test_two_controllers_at_once_submit_one_job(tiny: Callable[..., Tiny]) -> None:
    study = tiny(steps=30)
    controllers = [study.launch(QUICKLY, **SLOW) for _ in range(2)]
    texts = [ended(controller) for controller in controllers]
    assert sum("submitted Slurm job" in text for text in texts) == 1
    assert sum("waiting:" in text for text in texts) == 1
    assert len(study.jobs()) == 1
    assert sorted(study.losses()) == list(range(1, 31))


def test_cancelled_jobs_stay_cancelled_until_asked_for_again(cluster: Cluster, tiny: Callable[..., Tiny]) -> None:
    study = tiny(steps=60)
    controller = study.launch(QUICKLY, **SLOW)
    study.await_start(1)
    cluster.run("scancel", study.job())
    text = ended(controller, 1)
    assert "was cancelled in Slurm" in text
    assert "remedy: run the same command again: training goes on from its last save" in text

    controller = study.launch(QUICKLY, **SLOW)
    study.await_start(2)
    assert study.job() in ended(study.command("status", "--once"))
    assert "goes on from step" in ended(study.command("logs", "hybrid-s1"))
    assert f"job {study.job()} is cancelled" in ended(study.command("cancel", "hybrid-s1/pretrain-32"))
    assert "was cancelled with `sidewinder cancel`" in ended(controller, 1)
    assert "cancelled" in ended(study.command("status", "--once"))
    assert "has no job" in ended(study.command("cancel", "hybrid"))

    study.run(QUICKLY)
    assert [attempt.reason for attempt in study.attempts()] == ["cancelled", "cancelled", "finished"]
    assert sorted(study.losses()) == list(range(1, 61))
    table = ended(study.command("status", "--once"))
    assert "finished" in table
    assert "3 (2 cancelled)" in table


def test_job_cancelled_while_it_saves_does_not_come_back(cluster: Cluster, tiny: Callable[..., Tiny]) -> None:
    """Queueing a job again that is being cancelled would bring it back to life."""
    study = tiny(steps=200)
    controller = study.launch(QUICKLY, **SLOW)
    study.await_start(1)
    cluster.run("scancel", "--signal=USR2", study.job())
    ended(study.command("cancel", "hybrid"))
    assert "was cancelled" in ended(controller, 1)
    assert not cluster.run("squeue", "-h", "-t", "PD,R", "-o", "%i")
    assert len(study.jobs()) == 1


def test_unknown_run_is_named_with_the_nearest(tiny: Callable[..., Tiny]) -> None:
    study = tiny(steps=5)
    text = ended(study.command("cancel", "hybird-s1"), 1)
    assert "no run 'hybird-s1'; nearest: hybrid-s1" in text


# Without Slurm


def test_local_job_outlives_its_controller(tiny: Callable[..., Tiny]) -> None:
    study = tiny(steps=150, launching={"launcher": "local"})
    controller = study.launch()
    study.await_start(1)
    os.kill(controller.pid, signal.SIGKILL)
    controller.wait()
    text = study.run()
    assert "attached to process" in text
    assert len(study.ledger.submissions()) == 1
    assert [attempt.reason for attempt in study.attempts()] == ["finished"]
    assert sorted(study.losses()) == list(range(1, 151))


def test_debug_runs_in_this_process(tiny: Callable[..., Tiny]) -> None:
    study = tiny(steps=5, launching={"launcher": "debug"})
    study.run()
    assert sorted(study.losses()) == list(range(1, 6))
    assert [attempt.launcher for attempt in study.attempts()] == ["debug"]


# A cluster without accounting, whose preempted jobs get SIGTERM, and whose node does not see every folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    hidden = tmp_path_factory.mktemp("hidden")
    layout = Layout(nodes=1, accounting=False, warn_preempted=False, grace_s=5, hidden={"n1": str(hidden)})
    with started(layout) as cluster:
        yield cluster


def test_without_accounting_a_killed_job_is_noticed_and_a_preempted_one_goes_on(bare: Cluster, tmp_path: Path) -> None:
    study = Tiny(tmp_path, bare, steps=40)
    controller = study.launch(QUICKLY, **SLOW)
    study.await_start(1)
    bare.run("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    study.await_start(2)
    os.kill([row["pid"] for row in study.ledger.rows() if row["event"] == "started"][-1], signal.SIGKILL)
    ended(controller)
    assert [attempt.reason for attempt in study.attempts()] == ["preempted", "killed", "finished"]
    assert len(study.ledger.submissions()) == 2
    assert sorted(study.losses()) == list(range(1, 41))


def test_folder_that_the_node_does_not_see(bare: Cluster) -> None:
    hidden = Path(bare.layout.hidden["n1"])
    if not bare.hides():
        pytest.skip("this user may not give a node a view of its own")
    study = Tiny(hidden / "study", bare, steps=5, launching={"attempts": 1})
    text = ended(study.launch(QUICKLY), 1)
    assert "gave up after 1 attempt" in text
    assert "must lie on a file system that all nodes share" in text
    until(10, "the end of its job", lambda: not bare.run("squeue", "-h", "-t", "PD,R", "-o", "%i"))
