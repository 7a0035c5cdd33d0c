"""What runs in each task of a training job: the environment of torch.distributed, the training, and the way out.

submitit starts it, one task a process of the mesh. On a warning (SIGUSR2: the time limit, or preemption) the training
saves at a step that all processes agree on; only then, and by submitit's own handler, is the job queued again. After
SIGTERM Slurm is ending the job by itself: the task waits for that, because a job that ends first counts as failed.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sidewinder.cluster.guard import Guard
from sidewinder.cluster.ledger import Ledger, fruitless
from sidewinder.cluster.slurm import job_state, past
from sidewinder.cluster.standing import UNKNOWN_NOTICE_S, notice_s, standing
from sidewinder.config import load_study
from sidewinder.errors import ClusterError, SidewinderError
from sidewinder.graph import Graph, Stage
from sidewinder.record import write_atomically

if TYPE_CHECKING:
    from submitit.core.job_environment import JobEnvironment
    from submitit.helpers import DelayedSubmission

STOPPED = 75  # Exit status after a stop: sysexits' "try again later".
DECISION_S = 900.0
ASKS = 4  # A job asks Slurm for its end less often than its controller asks for the job.
PORTS = range(20_000, 32_768)  # Above these Linux takes ports for outgoing connections.


@dataclass
class Rank:
    """The callable that a job's tasks run."""

    config: str
    """The study, as it was when the job was submitted."""
    into: str
    """The stage's folder."""
    submission: int
    limit: int
    """Time limit, minutes; 0 for none."""

    def __call__(self) -> None:
        from submitit import JobEnvironment

        environment = JobEnvironment()
        requeue = signal.getsignal(signal.SIGUSR2)
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, _told_to_stop)
        graph = Graph(load_study(self.config))
        stage = graph.stage_at(Path(self.into))
        log = JobLog(Ledger(stage.folder), environment, self.submission, self.limit)
        log.started()
        try:
            self._may_train(graph, stage, log)
            export_ranks(environment)
            with self._guard(graph, stage, log):
                train(graph, stage)
        except SidewinderError as error:
            self._end(error, requeue, log)
        except Exception as error:
            log.failed(error, permanent=False)
            raise
        if log.first:
            log.write("done")

    def checkpoint(self) -> DelayedSubmission:
        """What submitit runs when the job starts again: the same; all that changes is in the stage's saves."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _guard(self, graph: Graph, stage: Stage, log: JobLog) -> Guard:
        on_clock = log.first and log.on_slurm
        return Guard(
            log.ledger.folder,
            (self.submission, log.restart),
            metrics=stage.folder / "metrics.jsonl",
            job=log.job,
            limit=self.limit if on_clock else 0,
            notice=graph.study.cluster.notice_s,
            ask_s=ASKS * graph.study.cluster.poll_s,
        )

    def _may_train(self, graph: Graph, stage: Stage, log: JobLog) -> None:
        """Ends a job that somebody cancelled, and one that is started on and on though no attempt saves anything."""
        if not log.first:
            return
        if log.cancelled():
            raise ClusterError(f"{stage.title}: job {log.job} was cancelled")
        earlier = [attempt for attempt in log.ledger.attempts() if attempt.ended_at is not None]
        saves = standing(stage.folder / "metrics.jsonl").saves
        count = fruitless(earlier, saves, log.ledger.closed_at())
        if count >= graph.study.cluster.attempts:
            raise ClusterError(f"{stage.title}: {count} attempts in a row failed without a newer save")

    def _end(self, error: SidewinderError, requeue: Any, log: JobLog) -> None:
        """Leaves after a stop or an error that is the user's to mend. Does not return."""
        from sidewinder.train.signals import TrainingStopped

        print(f"error: {error}", file=sys.stderr, flush=True)
        if not isinstance(error, TrainingStopped):
            log.failed(error, permanent=True)
            sys.exit(1)
        log.stopped(error.signal)
        # The commands below must not be ended by the signals that ended the training.
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if not log.first:
            sys.exit(0)  # All is saved; the first task decides what becomes of the job.
        if error.signal == "SIGUSR2" and callable(requeue) and log.wanted():
            _requeue(requeue)
        if log.on_slurm:
            time.sleep(DECISION_S)
        sys.exit(STOPPED)


def _told_to_stop(number: int, frame: FrameType | None) -> None:
    """Before the first step and after the last; between them the training has a handler of its own."""
    from sidewinder.train.signals import TrainingStopped

    name = signal.Signals(number).name
    raise TrainingStopped(f"{name} while it was not training").by(name)


def _requeue(handler: Callable[[int, None], Any]) -> None:
    """submitit's handler: it writes down what to run, asks Slurm to queue the job again, and ends this process."""
    try:
        handler(signal.SIGUSR2, None)
    except Exception:  # Slurm is ending the job by itself, or does not answer: its decision is awaited.
        traceback.print_exc()


def train(graph: Graph, stage: Stage) -> None:
    """Runs the stage in this process: one rank of it where torch.distributed's variables are set."""
    if stage.kind == "pretrain":
        from sidewinder.train.pretrain import pretrain

        pretrain(graph, stage)
    else:
        from sidewinder.train.extend import extend

        extend(graph, stage)


class JobLog:
    """What a job writes into the ledger: its first task, and any other only why it failed."""

    def __init__(self, ledger: Ledger, environment: JobEnvironment, submission: int, limit: int) -> None:
        self.ledger, self.submission, self.limit, self.job = ledger, submission, limit, environment.job_id
        self.task, self.on_slurm = environment.global_rank, environment.cluster == "slurm"
        self.first = self.task == 0
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0) if self.on_slurm else self._starts()

    def _starts(self) -> int:
        """How often a job of this machine was started before."""
        rows = [row for row in self.ledger.rows() if row["event"] == "started"]
        return sum((row["submission"], row["job"]) == (self.submission, self.job) for row in rows)

    def write(self, event: str, **fields: Any) -> None:
        """Adds a row to the ledger."""
        about = {"submission": self.submission, "restart": self.restart, "job": self.job}
        self.ledger.write_from_job(self.task, event, **about, **fields)

    def started(self) -> None:
        """Tells that the task begins."""
        if not self.first:
            return
        if self.restart and self.on_slurm:
            starts = [vars(entry) for entry in past(self.job)]
            self.ledger.write_from_job(0, "past", job=self.job, starts=starts)
        write_atomically(self.ledger.folder / "current", f"{self.submission}.{self.restart}")
        self.write("started", nodes=os.environ.get("SLURM_JOB_NODELIST") or socket.gethostname(), pid=os.getpid())

    def cancelled(self) -> bool:
        """Whether a user ended this job with `sidewinder cancel`."""
        rows = self.ledger.rows()
        return any(row["event"] == "cancelled" and row["submission"] == self.submission for row in rows)

    def wanted(self) -> bool:
        """Whether the job may be queued again: one that is being cancelled would come back to life."""
        return not self.cancelled() and not (
            self.on_slurm and job_state(self.job).state not in ("RUNNING", "SIGNALING")
        )

    def stopped(self, name: str) -> None:
        """Tells why the task stops before its end."""
        if self.first:
            self.write("stopped", signal=name, reason=self._why(name))

    def _why(self, name: str) -> str | None:
        """Why a job was warned, as far as Slurm tells; None after SIGTERM, which Slurm's next state explains."""
        if not self.on_slurm:
            return "stopped"
        state = job_state(self.job)
        if state.preempted:
            return "preempted"
        if name != "SIGUSR2":
            return None
        notice = max(UNKNOWN_NOTICE_S, notice_s(standing(self.ledger.folder.parent / "metrics.jsonl"), self.limit))
        # Slurm warns up to a minute early.
        return "timeout" if state.ends_at and state.ends_at - time.time() < notice + 120 else "warned"

    def failed(self, error: Exception, *, permanent: bool) -> None:
        """Tells what went wrong."""
        self.write("failed", error=str(error), kind=type(error).__name__, permanent=permanent)


def export_ranks(environment: JobEnvironment) -> None:
    """Sets RANK, WORLD_SIZE, MASTER_ADDR, … where a job has several tasks.

    The port differs with every start of a job, because what an earlier one left may still hold it. Nodes whose names
    do not resolve are reached by the address that Slurm knows.
    """
    if environment.num_tasks == 1:
        return
    from submitit.helpers import TorchDistributedEnvironment

    start = f"{environment.job_id}.{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    os.environ["MASTER_PORT"] = str(random.Random(start).choice(PORTS))
    exported = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    try:
        socket.getaddrinfo(exported.master_addr, None)
    except OSError:
        os.environ["MASTER_ADDR"] = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", exported.master_addr)
