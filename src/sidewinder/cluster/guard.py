"""A thread beside the training that watches two things: the clock, and whether this job is still the one that counts.

Slurm's own warning comes at a time that was fixed when the job was submitted. The thread knows how long saves take by
now, so it warns in time whatever was thought then. And where Slurm gave up a node that in truth still runs, the job is
started again elsewhere: the one left behind sees the newer start, and ends at once instead of training beside it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sidewinder.cluster.slurm import job_state
from sidewinder.cluster.standing import notice_s, standing

SUPERSEDED = 76  # Exit status of a process whose job was started anew elsewhere.
LOOK_S = 5.0
Start = tuple[int, int]
"""(submission, restart): a later start is greater."""


class Guard:
    """Watches while it is entered. `limit` is the time limit in minutes, 0 for none; rank 0 alone minds the clock.

    Slurm is asked every `ask_s` seconds when the job ends, because its limit can be changed while it runs.
    """

    def __init__(
        self, folder: Path, start: Start, *, metrics: Path, job: str, limit: int, notice: int | None, ask_s: float
    ) -> None:
        self.token, self.start, self.metrics, self.job = folder / "current", start, metrics, job
        self.limit, self.notice, self.ask_s = limit, notice, ask_s
        self.ends_at: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def _watch(self) -> None:
        asked = float("-inf")
        while not self._done.wait(LOOK_S):
            if superseded(self.token, self.start):
                print(f"job {self.job} was started anew elsewhere: this process ends", file=sys.stderr, flush=True)
                os._exit(SUPERSEDED)
            if not self.limit:
                continue
            if time.monotonic() - asked > self.ask_s:
                asked, state = time.monotonic(), job_state(self.job)
                self.ends_at = state.ends_at if state.state == "RUNNING" else None
            if self.ends_at and time.time() > self.ends_at - self._notice_s():
                self.limit = 0
                os.kill(os.getpid(), signal.SIGUSR2)

    def _notice_s(self) -> int:
        return self.notice or notice_s(standing(self.metrics), self.limit)


def superseded(token: Path, start: Start) -> bool:
    """Whether a later start than this one has written itself down."""
    try:
        submission, restart = token.read_text().split(".")
        return (int(submission), int(restart)) > start
    except (OSError, ValueError):
        return False
