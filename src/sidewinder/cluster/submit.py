"""Handing a job to submitit: to Slurm, to this machine, or to a debugger; and asking what became of it.

The batch script brings its own copy of what to run, and sbatch holds the stage's lock until it has its answer: so a
controller may be killed between any two lines here, and the job is neither lost nor handed in a second time.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from sidewinder.cluster import slurm
from sidewinder.cluster.ask import Ask, Shape
from sidewinder.cluster.check import complaint, remedy
from sidewinder.cluster.kin import command, started
from sidewinder.cluster.ledger import Submission
from sidewinder.cluster.rank import Rank
from sidewinder.cluster.slurm import GONE, JobState
from sidewinder.errors import ClusterError

REQUEUES = 1_000_000  # submitit's own limit; the ledger says when it is enough.
FOREVER_MIN = 60 * 24 * 365
# What a job must not inherit from the environment that submits it.
INHERITED = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_")
RANKS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SIDEWINDER_PROGRESS"}


@dataclass(frozen=True)
class Order:
    """All that a launcher must know to start a job."""

    name: str
    folder: Path
    ask: Ask
    shape: Shape
    rank: Rank
    notice_s: int
    lock: IO[str]


class Launcher(Protocol):
    """A way to run jobs."""

    def submit(self, order: Order) -> dict[str, Any]:
        """Starts a job; returns what to write down of it, `job` first of all. Raises ClusterError if refused."""

    def find(self, submission: Submission, known: set[str], folder: Path) -> str | None:
        """The job of a submission that nobody wrote down; None where there is none."""

    def stray(self, name: str, known: set[str]) -> dict[str, Any] | None:
        """A job of this name that is alive and was not written down here, to be adopted instead of submitting another.

        A controller on another machine may have submitted it, where locks of the file system do not reach that far.
        """

    def state(self, submission: Submission) -> JobState:
        """Where a job is now."""

    def cancel(self, job: str, submission: Submission) -> None:
        """Ends a job."""

    @property
    def cluster(self) -> str:
        """Where its jobs run: job numbers mean nothing elsewhere."""


class SlurmLauncher:
    """Jobs of the Slurm cluster that this machine belongs to."""

    @property
    def cluster(self) -> str:
        return slurm.cluster_name()

    def submit(self, order: Order) -> dict[str, Any]:
        script = order.folder / f"submission-{order.rank.submission}.sh"
        script.write_text(self._script(order))
        # Holding the lock: whoever comes next waits until Slurm has answered, even if this process is gone by then.
        done = subprocess.run(
            ["sbatch", "--parsable", str(script)],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(),
            pass_fds=[order.lock.fileno()],
        )
        if done.returncode:
            message = complaint(done.stderr)
            raise ClusterError(f"Slurm did not take {order.name}: {message}", remedy=remedy(message))
        return {"job": done.stdout.strip().partition(";")[0]}

    def _script(self, order: Order) -> str:
        from submitit.core.utils import DelayedSubmission
        from submitit.slurm.slurm import SlurmExecutor

        executor = SlurmExecutor(order.folder, max_num_timeout=REQUEUES)
        executor.update_parameters(**_parameters(order))
        work = DelayedSubmission(order.rank)
        work.set_timeout(order.ask.runtime, REQUEUES)
        work.dump(order.folder / f"submitted-{order.rank.submission}.pkl")
        return executor._make_submission_file_text(executor._submitit_command_str, "")

    def find(self, submission: Submission, known: set[str], folder: Path) -> str | None:
        found = [job for job in slurm.jobs_named(submission.name, submission.submitted_at - 60) if job not in known]
        return found[0] if found else None

    def stray(self, name: str, known: set[str]) -> dict[str, Any] | None:
        queued = {job for job, state in slurm.queue().items() if state.name == name and not state.ended}
        return {"job": min(queued - known, key=int), "found": True} if queued - known else None

    def state(self, submission: Submission) -> JobState:
        assert submission.job
        return slurm.job_state(submission.job)

    def cancel(self, job: str, submission: Submission) -> None:
        slurm.cancel(job)


def _parameters(order: Order) -> dict[str, Any]:
    """The job in submitit's words."""
    ask, shape = order.ask, order.shape
    values: dict[str, Any] = {
        "job_name": order.name,
        "time": ask.runtime,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks_per_node,
        "cpus_per_task": shape.cpus_per_task,
        "mem": f"{shape.mem_mb_per_node}M",
        "signal_delay_s": order.notice_s,
        # One job of a name runs at a time, even if a lock failed to keep a second one out.
        "dependency": "singleton",
        "setup": _setup(order),
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={shape.cpus_per_task}"],
        "additional_parameters": {"requeue": True} | _flags(ask.slurm_extra),
        "gpus_per_node": shape.gpus_per_node or None,
        "partition": ask.slurm_partition or None,
        "account": ask.slurm_account or None,
        "qos": ask.qos or None,
        "constraint": ask.constraint or None,
    }
    return {key: value for key, value in values.items() if value is not None}


def _setup(order: Order) -> list[str]:
    """Lines of the batch script that put what to run where submitit looks for it, unless an earlier start did."""
    folder, number = shlex.quote(str(order.folder)), order.rank.submission
    return [
        f"cd {folder} || {{ echo 'this node does not see' {folder} >&2; exit 1; }}",
        "if [ ! -e ${SLURM_JOB_ID}_submitted.pkl ]; then",
        f"  cp submitted-{number}.pkl .${{SLURM_JOB_ID}}.part",
        "  mv .${SLURM_JOB_ID}.part ${SLURM_JOB_ID}_submitted.pkl",
        "fi",
        "rm -f ${SLURM_JOB_ID}_*.save_tmp",  # Left by a start that was killed while it wrote.
        "cd - >/dev/null",
    ]


def _flags(text: str) -> dict[str, Any]:
    """`--exclude=n3 --exclusive` → {"exclude": "n3", "exclusive": True}."""
    flags: dict[str, Any] = {}
    for word in shlex.split(text):
        key, equals, value = word.removeprefix("--").partition("=")
        flags[key] = value if equals else True
    return flags


class LocalLauncher:
    """Processes of this machine, below one of submitit's that watches them; they outlive the controller."""

    cluster = os.uname().nodename

    def __init__(self) -> None:
        self._children: list[Any] = []

    def submit(self, order: Order) -> dict[str, Any]:
        from submitit.local.local import LocalExecutor

        if order.shape.nodes > 1:
            raise ClusterError(
                f"{order.name}: {order.shape.nodes} nodes on one machine", remedy="use `launcher: slurm`"
            )
        executor = LocalExecutor(order.folder, max_num_timeout=REQUEUES)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        gpus = [int(number) for number in visible.split(",") if number.isdigit()]
        executor.update_parameters(
            tasks_per_node=order.shape.tasks,
            timeout_min=FOREVER_MIN,
            gpus_per_node=min(order.shape.tasks, len(gpus)) if gpus else order.shape.tasks,
            visible_gpus=gpus,
        )
        job = executor.submit(order.rank)
        self._children.append(job)  # Keeps its process object: it is this process that must collect its child.
        return {"job": job.job_id, "started": started(int(job.job_id))}

    def find(self, submission: Submission, known: set[str], folder: Path) -> str | None:
        for entry in Path("/proc").glob("[0-9]*"):
            words = command(int(entry.name))
            if "submitit.local._local" in words and str(folder) in words and entry.name not in known:
                return entry.name
        return None

    def stray(self, name: str, known: set[str]) -> dict[str, Any] | None:
        return None  # The lock reaches as far as this machine does.

    def state(self, submission: Submission) -> JobState:
        assert submission.job
        then, now = submission.detail.get("started"), started(int(submission.job))
        running = now is not None and then in (None, now)
        return JobState("RUNNING", nodes=self.cluster) if running else JobState(GONE)

    def cancel(self, job: str, submission: Submission) -> None:
        if submission.job is None or not self.state(submission).ended:
            os.kill(int(job), signal.SIGINT)  # submitit's watcher ends its tasks on SIGINT.


class DebugLauncher:
    """In this process, with a debugger where it fails; over when `submit` returns."""

    cluster = "debug"

    def submit(self, order: Order) -> dict[str, Any]:
        from submitit.local.debug import DebugExecutor

        if order.shape.tasks > 1:
            raise ClusterError(
                f"{order.name}: {order.shape.tasks} processes cannot be debugged in one",
                remedy="set the mesh to 1 everywhere, or use `launcher: local`",
            )
        job = DebugExecutor(order.folder).submit(order.rank)
        job.results()
        return {"job": job.job_id}

    def find(self, submission: Submission, known: set[str], folder: Path) -> str | None:
        return None

    def stray(self, name: str, known: set[str]) -> dict[str, Any] | None:
        return None

    def state(self, submission: Submission) -> JobState:
        return JobState(GONE)

    def cancel(self, job: str, submission: Submission) -> None:
        return


LAUNCHERS: dict[str, type[Launcher]] = {"slurm": SlurmLauncher, "local": LocalLauncher, "debug": DebugLauncher}


def clean_environment() -> dict[str, str]:
    """This environment without what belongs to a job that the controller itself may run in."""
    kept = {"SLURM_CONF"}
    return {
        key: value
        for key, value in os.environ.items()
        if key in kept or not (key.startswith(INHERITED) or key in RANKS)
    }
