"""What Slurm knows of a job: asked of its controller, and of its accounting for jobs that the controller has forgotten.

Clusters without accounting are served as well: there, a job that ended long ago is unknown, and the stage's own files
tell what became of it.
"""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
import time
from dataclasses import dataclass

from sidewinder.errors import ClusterError

GONE, UNREACHABLE = "GONE", "UNREACHABLE"
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REQUEUE_FED"}
ALIVE = WAITING | {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
TIMEOUT_S = 60


@dataclass(frozen=True)
class JobState:
    """A job as Slurm sees it; `state` may also be GONE (Slurm no longer knows it) or UNREACHABLE (no answer)."""

    state: str
    reason: str = ""
    restarts: int = 0
    nodes: str = ""
    exit_code: str = ""
    name: str = ""
    user: str = ""
    ends_at: float | None = None
    preempted: bool = False

    @property
    def ended(self) -> bool:
        return self.state not in ALIVE and self.state != UNREACHABLE

    def __str__(self) -> str:
        on = f" on {self.nodes}" if self.nodes and self.state not in WAITING else ""
        why = f" ({self.reason})" if self.reason and self.state in WAITING else ""
        return f"{self.state.lower()}{on}{why}"


@dataclass(frozen=True)
class Past:
    """One start of a job, as the accounting lists it."""

    state: str
    nodes: str
    exit_code: str
    ended_at: float | None


def call(*command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs a Slurm command. Raises ClusterError where there is no Slurm, does not answer or, with `check`, refuses."""
    if not shutil.which(command[0]):
        raise ClusterError(
            f"there is no `{command[0]}` on PATH: Slurm is not installed here, or not loaded",
            remedy="run on a login node of the cluster (some sites need `module load slurm`), or run `snakemake` "
            "without `--profile slurm`",
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(command, 124, "", f"no answer within {TIMEOUT_S} s")
    if check and done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def job_state(job: str) -> JobState:
    """Where a job is now."""
    shown = call("scontrol", "--oneliner", "show", "job", job)
    if shown.returncode == 0 and "JobId=" in shown.stdout:
        return _from_scontrol(shown.stdout)
    if "Invalid job id" not in shown.stderr:
        return JobState(UNREACHABLE, reason=shown.stderr.strip())
    found = past(job)
    if not found:
        return JobState(GONE)
    last = found[-1]
    name, user = _accounted_name(job)
    return JobState(last.state, "", len(found) - 1, last.nodes, last.exit_code, name, user)


def _from_scontrol(line: str) -> JobState:
    fields = dict(re.findall(r"(?:^| )(\w+)=(\S*)", line))
    user = fields.get("UserId", "").partition("(")[0]
    return JobState(
        state=fields["JobState"],
        reason="" if fields.get("Reason") in (None, "None") else fields["Reason"],
        restarts=int(fields.get("Restarts", 0)),
        nodes=fields.get("NodeList", "").replace("(null)", ""),
        exit_code=fields.get("ExitCode", ""),
        name=fields.get("JobName", ""),
        user=user,
        ends_at=_seconds(fields.get("EndTime", "")),
        preempted=_seconds(fields.get("PreemptTime", "")) is not None,
    )


def past(job: str) -> list[Past]:
    """Every start of a job in order; empty where there is no accounting, or it does not know the job."""
    if not shutil.which("sacct"):
        return []
    listed = call("sacct", "-j", job, "-D", "-X", "-n", "-P", "-o", "JobID,State,NodeList,ExitCode,End")
    rows = [line.split("|") for line in listed.stdout.splitlines()] if listed.returncode == 0 else []
    # `CANCELLED by 1000` is one state; jobs that never started have no nodes.
    return [
        Past(state.split()[0], "" if nodes == "None assigned" else nodes, code, _seconds(end))
        for number, state, nodes, code, end in rows
        if number == job
    ]


def _accounted_name(job: str) -> tuple[str, str]:
    listed = call("sacct", "-j", job, "-X", "-n", "-P", "-o", "JobName,User").stdout.splitlines()
    name, _, user = listed[0].rpartition("|") if listed else ("", "", "")
    return name, user


def jobs_named(name: str, since: float) -> list[str]:
    """Own jobs of this name, oldest first: those in the queue, and those that began to wait at or after `since`."""
    user = getpass.getuser()
    queue = call("squeue", "-h", "-t", "all", "-u", user, "-n", name, "-o", "%A", check=True)
    found = set(queue.stdout.split())
    if shutil.which("sacct"):
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
        listed = call("sacct", "-X", "-n", "-P", "-u", user, f"--name={name}", "-S", start, "-o", "JobID")
        found |= set(listed.stdout.split()) if listed.returncode == 0 else set()
    return sorted(found, key=int)


def queue() -> dict[str, JobState]:
    """All own jobs that Slurm's controller knows, in one question; empty where it does not answer."""
    asked = call("squeue", "-h", "-t", "all", "-u", getpass.getuser(), "-o", "%A|%T|%r|%N|%j")
    rows = [line.split("|") for line in asked.stdout.splitlines()] if asked.returncode == 0 else []
    return {
        job: JobState(state, "" if reason == "None" else reason, nodes=nodes, name=name)
        for job, state, reason, nodes, name in rows
    }


def cancel(job: str) -> None:
    """Asks Slurm to end a job. Raises ClusterError where it refuses."""
    call("scancel", job, check=True)


def cluster_name() -> str:
    """The name that this cluster gives itself."""
    shown = call("scontrol", "show", "config", check=True).stdout
    found = re.search(r"^ClusterName\s*=\s*(\S+)", shown, re.MULTILINE)
    return found[1] if found else ""


def _seconds(text: str) -> float | None:
    """`2026-11-23T03:10:52`, local time, in seconds since 1970; None for `Unknown`, `None` and the like."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
