"""The controller of one stage: submits its job once, waits, finds it again, and starts it anew where that helps.

Only one controller of a stage is at work at a time; it may die at any moment, and the next one reads the ledger.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from sidewinder.cluster.ask import HERE, Ask, launcher_of, shape_of
from sidewinder.cluster.check import check_wanted, of_training
from sidewinder.cluster.kin import same_process, snakemake_above
from sidewinder.cluster.ledger import Ledger, Submission, fruitless, log_path
from sidewinder.cluster.rank import Rank, train
from sidewinder.cluster.slurm import GONE, UNREACHABLE, JobState, past
from sidewinder.cluster.standing import notice_s, standing
from sidewinder.cluster.submit import LAUNCHERS, Order
from sidewinder.config.load import write_study
from sidewinder.errors import ClusterError, SidewinderError
from sidewinder.graph import Graph, Stage
from sidewinder.record import digest, exclusive
from sidewinder.train.job import stage_job

# Reasons for which a job of this size will never start.
NEVER = (
    *("PartitionTimeLimit", "PartitionNodeLimit", "PartitionConfig", "BadConstraints", "InvalidAccount", "InvalidQOS"),
    *("DependencyNeverSatisfied", "AccountNotAllowed", "QOSNotAllowed", "launch_failed"),
)
LOG_LINES = 15
RECORD_WAITS = 5


class Detached(SidewinderError):
    """The controller was told to stop; its job goes on."""


def launch(graph: Graph, stage: Stage, ask: Ask) -> None:
    """Brings a stage to its record: in this process, or as a job that this process waits for.

    Raises ClusterError where the job cannot be submitted, was cancelled, or failed as often as the study allows, and
    Detached after SIGINT, SIGTERM or SIGHUP.
    """
    name = launcher_of(graph.study.cluster.launcher, ask, stage.training.mesh.processes)
    if name == HERE:
        train(graph, stage)
        return
    with exclusive(Ledger(stage.folder).folder / ".lock") as lock, _detachable(stage):
        Controller(graph, stage, ask, name).run(lock)


class Controller:
    """Takes one stage from wherever it is to its record."""

    def __init__(self, graph: Graph, stage: Stage, ask: Ask, launcher: str) -> None:
        self.graph, self.stage, self.ask = graph, stage, ask
        self.launcher_name, self.launcher = launcher, LAUNCHERS[launcher]()
        self.ledger, self.settings = Ledger(stage.folder), graph.study.cluster
        self.shape = shape_of(ask, stage.training)
        self.master = snakemake_above()
        self.said = ""

    def run(self, lock: IO[str]) -> None:
        """`lock` is the stage's, held: sbatch holds it too while it runs."""
        self.lock = lock
        while not self.finished():
            submission = self._attached() or self._submit()
            self._watch(submission)
        self.say("finished")

    def finished(self) -> bool:
        """Whether the stage has the record that is wanted; one that Snakemake deleted is put back."""
        return stage_job(self.stage).restore()

    def say(self, message: str) -> None:
        """Tells what changed, once."""
        if message != self.said:
            self.said = message
            print(f"{time.strftime('%F %T')} {self.stage.title}: {message}", file=sys.stderr, flush=True)

    # Finding and submitting

    def _attached(self) -> Submission | None:
        """The job that an earlier controller left, where there is one."""
        left = self.ledger.open_submission()
        if left is None:
            return None
        if left.launcher != self.launcher_name or left.cluster != self.launcher.cluster:
            raise ClusterError(
                f"{self.stage.title}: job {left.job} was submitted to {left.launcher} on {left.cluster}, and this is "
                f"{self.launcher_name} on {self.launcher.cluster}",
                remedy=f"run the study there; or, if that job is no more, delete {self.ledger.folder}",
            )
        if left.job is None:
            found = self.launcher.find(left, self._known(), self.ledger.folder)
            if found is None:
                self.ledger.write("ended", submission=left.number, job=None, state="", why="was never submitted")
                return None
            self.ledger.write("submitted", submission=left.number, job=found, found=True)
            left = self.ledger.open_submission()
            assert left
        state = self.launcher.state(left)
        if state.name and state.name != left.name:
            self.say(f"job {left.job} is {state.user}'s {state.name}, not this stage's; a new one is submitted")
            self.ledger.write("ended", submission=left.number, job=left.job, state="", why="is another's job")
            return None
        self.say(f"attached to {self._job(left)}: {state}")
        return left

    def _known(self) -> set[str]:
        """Jobs of this stage that are written down."""
        return {entry.job for entry in self.ledger.submissions() if entry.job}

    def _submit(self) -> Submission:
        number = len(self.ledger.submissions()) + 1
        folder = self.ledger.folder
        folder.mkdir(parents=True, exist_ok=True)
        # The study as it is now: a job that goes on for weeks must not see a later one.
        study = folder / f"study-{number}.json"
        write_study(self.graph.study, study)
        place = str(self.stage.folder.absolute())
        name = f"{self.stage.run}.{self.stage.name}.{digest(place)[:8]}"
        limit = self.ask.runtime if self.launcher_name == "slurm" else 0
        order = Order(
            name=name,
            folder=folder,
            ask=self.ask,
            shape=self.shape,
            rank=Rank(str(study), str(self.stage.folder), number, limit),
            notice_s=self._notice_s(),
            lock=self.lock,
        )
        if self.launcher_name == "slurm":
            check_wanted([of_training(self.stage.title, self.ask, self.stage.training)])
        about = {"name": name, "launcher": self.launcher_name, "cluster": self.launcher.cluster}
        self.ledger.write("submitting", submission=number, **about)
        try:
            about = self.launcher.stray(name, self._known()) or self.launcher.submit(order)
        except ClusterError as error:
            self.ledger.write("ended", submission=number, job=None, state="", why=str(error))
            raise
        self.ledger.write("submitted", submission=number, **about)
        submission = next(entry for entry in self.ledger.submissions() if entry.number == number)
        self.say(f"submitted {self._job(submission)}")
        return submission

    def _notice_s(self) -> int:
        """From this stage's own saves, or its parent's, whose model is as large."""
        if self.settings.notice_s:
            return self.settings.notice_s
        found = standing(self.stage.folder / "metrics.jsonl")
        if found.slowest_save_s is None and self.stage.parent:
            found = standing(self.stage.parent.folder / "metrics.jsonl")
        return notice_s(found, self.ask.runtime)

    def _job(self, submission: Submission) -> str:
        kind = {"slurm": "Slurm job", "local": "process"}.get(submission.launcher, "job")
        return f"{kind} {submission.job}"

    # Waiting

    def _watch(self, submission: Submission) -> None:
        """Waits for a job's end. Returns where the stage is finished, or a new job should follow."""
        ended = 0
        while True:
            state = self.launcher.state(submission)
            if self.finished():
                self.ledger.write("ended", submission=submission.number, job=submission.job, restarts=state.restarts)
                return
            ended = ended + 1 if state.ended else 0
            # A job that Slurm queues again seems to have ended for a moment; and files of another node come late.
            if ended > (RECORD_WAITS if state.state == "COMPLETED" else 1):
                self._decide(submission, state)
                return
            if state.state == UNREACHABLE:
                self.say(f"Slurm does not answer ({state.reason}); {self._job(submission)} is asked for again")
            elif not ended:
                again = f", start {state.restarts + 1}" if state.restarts and state.state != "COMPLETING" else ""
                self.say(f"{self._job(submission)}{again}: {state}")
            self._give_up_waiting(submission, state)
            if self.master and not same_process(*self.master):
                raise Detached(f"{self.stage.title}: the study was stopped; {self._job(submission)} goes on")
            time.sleep(self.settings.poll_s)

    def _give_up_waiting(self, submission: Submission, state: JobState) -> None:
        """Cancels a job that will never start. Raises ClusterError then."""
        if state.state in ("PENDING", "REQUEUE_HOLD") and state.reason.startswith(NEVER):
            self.launcher.cancel(submission.job or "", submission)
            fields = {"job": submission.job, "restarts": state.restarts, "state": "", "why": state.reason}
            self.ledger.write("ended", submission=submission.number, **fields)
            raise ClusterError(
                f"{self.stage.title}: {self._job(submission)} would never start ({state.reason}); it was cancelled",
                remedy="for a limit, change slurm/profile.v9+.yaml; where the launch failed, a node's spool may be "
                "full: exclude it with `slurm_extra: --exclude=NODE`. Then run the same command again",
            )

    def _decide(self, submission: Submission, state: JobState) -> None:
        """After an end without a record: returns where another job may help. Raises ClusterError where not."""
        number, job = submission.number, submission.job
        if submission.launcher == "slurm" and job and (starts := [vars(entry) for entry in past(job)]):
            self.ledger.write("past", job=job, starts=starts)
        fields = {"state": state.state, "restarts": state.restarts, "exit_code": state.exit_code, "nodes": state.nodes}
        self.ledger.write("ended", submission=number, job=job, **fields)
        since, rows = self.ledger.closed_at(), self.ledger.rows()
        cancelled = [row for row in rows if row["event"] == "cancelled" and row["submission"] == number]
        if cancelled or state.state == "CANCELLED":
            by = "with `sidewinder cancel`" if cancelled else "in Slurm"
            if not cancelled:
                self.ledger.write("cancelled", submission=number, job=job)
            raise ClusterError(
                f"{self.stage.title}: {self._job(submission)} was cancelled {by}",
                remedy="run the same command again: training goes on from its last save",
            )
        attempts = self.ledger.attempts()
        last = attempts[-1] if attempts else None
        count = fruitless(attempts, standing(self.stage.folder / "metrics.jsonl").saves, since)
        if last and last.permanent:
            self.ledger.write("gave_up", submission=number, why=last.error)
            raise ClusterError(f"{self.stage.title}: {self._job(submission)} ended: {last.error}")
        why = last.reason if last and last.reason else state.state.lower()
        if count >= self.settings.attempts:
            self.ledger.write("gave_up", submission=number, why=why)
            raise ClusterError(self._obituary(submission, state, count, why), remedy=self._advice(submission))
        if state.state == GONE:
            self.say(f"Slurm no longer knows {self._job(submission)}; a new job follows")
            return
        tally = f"failure {count} of {self.settings.attempts} without a newer save" if count else "its saves are newer"
        self.say(f"{self._job(submission)} ended ({why}), {tally}; a new job follows")

    def _obituary(self, submission: Submission, state: JobState, count: int, why: str) -> str:
        step = standing(self.stage.folder / "metrics.jsonl").step
        log, lines = self._log_tail(submission)
        times = f"{count} attempt{'s' * (count > 1)} in a row"
        end = f"{why} ({state.state}, exit {state.exit_code or '?'}), at step {step:,}"
        head = (
            f"{self.stage.title}: gave up after {times} without a newer save; the last one, {self._job(submission)}, "
            f"ended: {end}"
        )
        shown = lines or [f"(empty: {state.nodes or 'its node'} wrote nothing)"]
        return "\n".join([head, f"  last lines of {log}:", *(f"    | {line}" for line in shown)])

    def _advice(self, submission: Submission) -> str:
        if self._log_tail(submission)[1]:
            return "mend what the log tells, then run the same command again: it goes on from the last save"
        return f"the node may not see {self.ledger.folder}: `results` must lie on a file system that all nodes share"

    def _log_tail(self, submission: Submission) -> tuple[Path, list[str]]:
        """The log of the first task and its last lines."""
        path = log_path(self.ledger.folder, submission.job)
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        return path, [line for line in lines if line.strip()][-LOG_LINES:]


@contextmanager
def _detachable(stage: Stage) -> Iterator[None]:
    """A stop signal ends the waiting, not the job."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Detached(
            f"{stage.title}: {signal.Signals(number).name}: no longer waiting; the job goes on",
            remedy="run the same command again to wait for it, or `sidewinder cancel` it",
        )

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    earlier = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
