"""One training job of two nodes and four processes, cut off in every way that a cluster knows.

Each time it goes on from its last save, and it ends with the losses of an undisturbed run, bit for bit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from processes import PATIENCE, until
from real_slurm import Cluster
from sidewinder.catalog import build_catalog, query
from tiny import SABOTAGE, SEQUENCES, TOKENS, Tiny

STEPS = 240
NOTICE_MINUTES = 5
SETTINGS: dict[str, Any] = {
    "steps": STEPS,
    "training": {"mesh": {"data": 2, "context": 2}, "save_every_tokens": 5 * SEQUENCES * TOKENS},
}
NODES = ("tasks_per_node=2", "runtime=30")


def kill_batch_script(job: str) -> None:
    """SIGKILL to the shell that runs the batch script."""
    for process in psutil.process_iter(["cmdline"]):
        if any(f"job{int(job):05d}/slurm_script" in word for word in process.info["cmdline"] or []):
            process.send_signal(signal.SIGKILL)
            return
    raise AssertionError(f"job {job} has no batch script")


def run_out_of_time(cluster: Cluster, job: str) -> None:
    """Leaves a job the time of its notice: it is warned at once, and has minutes to save, however busy the machine."""
    minutes, _, _ = cluster.run("squeue", "-h", "-j", job, "-o", "%M").rpartition(":")
    limit = int(minutes) + NOTICE_MINUTES
    cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")


def preempt(cluster: Cluster) -> None:
    """A job of higher priority takes all nodes for a second."""
    cluster.run("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")


@pytest.mark.timeout(1800)
def test_disturbed_job_ends_as_an_undisturbed_one(cluster: Cluster, tiny: Callable[..., Tiny], tmp_path: Path) -> None:
    # Undisturbed: four processes of this machine, at the same time, through submitit's local launcher.
    reference = tiny(tmp_path / "undisturbed", **SETTINGS, launching={"launcher": "local"})
    undisturbed = reference.launch()
    disturbed = tiny(tmp_path / "disturbed", **SETTINGS, launching={"notice_s": 60 * NOTICE_MINUTES})
    controller = disturbed.launch(*NODES, PYTHONPATH=str(SABOTAGE), BRAKE_S="0.4")
    disturbed.await_start(1)
    controller.send_signal(signal.SIGTERM)
    assert controller.wait(timeout=PATIENCE * 30) == 1
    job = disturbed.job()  # By itself from here on, with no controller.
    for turn in (1, 2):
        run_out_of_time(cluster, job)
        disturbed.await_stop(turn)
        cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
        disturbed.await_start(turn + 1)
    cluster.run("scontrol", "requeue", job)
    disturbed.await_start(4)
    preempt(cluster)
    disturbed.await_start(5)
    disturbed.await_steps(6)
    os.kill(cluster.pid("slurmd.n2"), signal.SIGKILL)
    until(60, "the loss of the node", lambda: disturbed.state() == "PENDING")
    cluster.revive()
    disturbed.await_start(6)
    controller = disturbed.launch(*NODES)
    disturbed.await_steps(6)
    kill_batch_script(job)
    said, _ = controller.communicate(timeout=PATIENCE * 120)
    assert controller.returncode == 0, said + disturbed.logs()

    reasons = [attempt.reason for attempt in disturbed.attempts()]
    assert reasons == ["timeout", "timeout", "requeued", "preempted", "node failed", "killed", "finished"]
    assert disturbed.jobs() == [job, disturbed.job()]
    build_catalog(disturbed.graph.results, disturbed.graph.catalog)
    listed = query(
        disturbed.graph.results, "SELECT reason, launched_job, from_step FROM attempts ORDER BY attempt"
    ).rows
    assert [row[:2] for row in listed] == [*zip(reasons[:-1], [job] * 6, strict=True), ("finished", disturbed.job())]
    steps = [row[2] for row in listed if row[2] is not None]  # None: out of time before the first step.
    assert steps == sorted(steps)

    told, _ = undisturbed.communicate(timeout=PATIENCE * 300)
    assert undisturbed.returncode == 0, told + reference.logs()
    assert len(reference.losses()) == STEPS
    assert disturbed.losses() == reference.losses()
