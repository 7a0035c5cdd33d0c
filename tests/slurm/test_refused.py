"""What a cluster may refuse, and jobs that will not heal: what the user reads, and after how many attempts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from processes import PATIENCE
from real_slurm import Cluster
from tiny import SABOTAGE, Tiny

QUICKLY = "runtime=5"


def told(controller: subprocess.Popen[str], status: int = 1) -> str:
    """What a controller says until it ends with this status."""
    text, _ = controller.communicate(timeout=PATIENCE * 120)
    assert controller.returncode == status, text
    return text


# Before anything is submitted


def test_no_slurm(tiny: Callable[..., Tiny]) -> None:
    study = tiny(steps=5)
    text = told(study.launch(PATH=str(Path(sys.executable).parent)))
    assert "there is no `scontrol` on PATH" in text
    assert "remedy: run on a login node" in text
    assert not study.ledger.submissions()


@pytest.mark.parametrize(
    ("ask", "problem", "remedy"),
    [
        ("slurm_partition=gpuu", "invalid partition", "sinfo"),
        ("slurm_account=nobodys", "invalid account", "sacctmgr show assoc"),
        ("mem_mb_per_task=999999", "node configuration is not available", "ask for less"),
        ("constraint=h100", "Invalid feature specification", "slurm/profile.v9+.yaml"),
        ("slurm_partitoin=gpu", "slurm_partitoin: unknown; nearest: slurm_partition", "slurm/profile.v9+.yaml"),
        ("runtime=1d", "runtime: '1d' is not a whole number", "slurm/profile.v9+.yaml"),
    ],
)
def test_what_slurm_does_not_take(tiny: Callable[..., Tiny], ask: str, problem: str, remedy: str) -> None:
    study = tiny(steps=5)
    text = told(study.launch(ask))
    assert problem in text
    assert remedy in text.partition("remedy:")[2]
    assert study.ledger.open_submission() is None


def test_time_limit_beyond_the_partition_is_told_before_submission(tiny: Callable[..., Tiny]) -> None:
    text = told(tiny(steps=5).launch("slurm_partition=short", "runtime=10"))
    assert "runtime of 10 min is above the time limit of partition short, 5 min" in text
    assert "remedy: lower `runtime`" in text


def test_full_disk_of_slurms_controller(cluster: Cluster, tiny: Callable[..., Tiny]) -> None:
    states = list((cluster.folder / "state").glob("hash.*"))
    aside = cluster.folder / "aside"
    aside.mkdir()
    for number in range(10):  # Where slurmctld stores scripts; a file in place of each folder refuses them all.
        path = cluster.folder / "state" / f"hash.{number}"
        if path in states:
            path.rename(aside / path.name)
        path.touch()
    try:
        text = told(tiny(steps=5).launch(QUICKLY))
    finally:
        for number in range(10):
            (cluster.folder / "state" / f"hash.{number}").unlink()
        for path in aside.iterdir():
            path.rename(cluster.folder / "state" / path.name)
        aside.rmdir()
    assert "I/O error writing script" in text
    assert "disk of Slurm's controller is full" in text


# Job numbers that mean nothing


def test_job_number_of_another_job_is_not_waited_for(cluster: Cluster, tiny: Callable[..., Tiny]) -> None:
    foreign = cluster.run("sbatch", "--parsable", "-J", "somebody", "-o/dev/null", "--wrap=sleep 300")
    study = tiny(steps=5)
    study.ledger.write("submitting", submission=1, name="ours", launcher="slurm", cluster="onemachine")
    study.ledger.write("submitted", submission=1, job=foreign)
    text = study.run(QUICKLY)
    assert f"job {foreign} is root's somebody, not this stage's" in text
    assert cluster.run("squeue", "-h", "-j", foreign, "-o", "%T") in ("RUNNING", "PENDING")
    cluster.run("scancel", foreign)


def test_job_number_that_slurm_has_forgotten(tiny: Callable[..., Tiny]) -> None:
    study = tiny(steps=5)
    study.ledger.write("submitting", submission=1, name="ours", launcher="slurm", cluster="onemachine")
    study.ledger.write("submitted", submission=1, job="999999")
    assert "Slurm no longer knows Slurm job 999999" in study.run(QUICKLY)
    assert len(study.ledger.submissions()) == 2


def test_job_of_another_cluster(tiny: Callable[..., Tiny]) -> None:
    study = tiny(steps=5)
    study.ledger.write("submitting", submission=1, name="ours", launcher="slurm", cluster="elsewhere")
    study.ledger.write("submitted", submission=1, job="7")
    text = told(study.launch(QUICKLY))
    assert "job 7 was submitted to slurm on elsewhere, and this is slurm on onemachine" in text
    assert "remedy: run the study there" in text


# Jobs that fail


def test_mistake_that_a_job_finds_is_told_at_once(tiny: Callable[..., Tiny]) -> None:
    study = tiny(steps=5, training={"device": "cuda"})
    text = told(study.launch(QUICKLY))
    assert "ended: training.device is cuda, but torch sees no GPU" in text
    assert "remedy: use `auto` or `cpu`" in text
    assert [(attempt.reason, attempt.permanent) for attempt in study.attempts()] == [("failed", True)]


def test_crash_loop_ends_after_the_stated_attempts(tiny: Callable[..., Tiny]) -> None:
    study = tiny(steps=60, launching={"attempts": 2})
    # Step 25 kills the process; step 20 was saved, so the first attempt was not in vain.
    crash = {"PYTHONPATH": str(SABOTAGE), "BRAKE_S": "0", "CRASH_AT_SEQUENCE": str(24 * 4)}
    text = told(study.launch(QUICKLY, **crash))
    assert "gave up after 2 attempts in a row without a newer save" in text
    assert "at step 24" in text
    assert "Exited with" in text or "Killed" in text
    assert [attempt.reason for attempt in study.attempts()] == ["killed"] * 3
    assert len(study.jobs()) == 3
    study.run(QUICKLY)  # Mended: the same command goes on.
    assert sorted(study.losses()) == list(range(1, 61))


def test_out_of_memory_before_the_first_step(tiny: Callable[..., Tiny]) -> None:
    batch = {"batch_sequences": 16384, "budget_tokens": 2 * 16384 * 32}
    study = tiny(steps=2, training=batch, launching={"attempts": 2})
    text = told(study.launch(QUICKLY, PYTHONPATH=str(SABOTAGE), MEMORY_MB="1500"))
    assert "gave up after 2 attempts in a row without a newer save" in text
    assert "at step 0" in text
    assert "last lines of" in text
    assert "can't allocate memory" in text


def test_node_that_cannot_start_jobs(cluster: Cluster, tiny: Callable[..., Tiny]) -> None:
    """A spool folder that takes nothing, as when its disk is full."""
    spools = [cluster.folder / "spool" / node for node in ("n1", "n2")]
    for spool in spools:
        spool.rename(spool.with_suffix(".aside"))
        spool.touch()
    try:
        text = told(tiny(steps=5).launch(QUICKLY))
    finally:
        for spool in spools:
            spool.unlink()
            spool.with_suffix(".aside").rename(spool)
        cluster.run("scontrol", "update", "NodeName=n1,n2", "State=RESUME", check=False)
    assert "would never start" in text or "gave up" in text
    assert "spool" in text.partition("remedy:")[2]
