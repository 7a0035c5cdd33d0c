"""Processes of this machine: waiting for them, finding them, ending them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
STOP_S = 10

PATIENCE = 4  # Times longer than it takes alone: other tests may run beside.


def adopt_orphans() -> None:
    """Makes this process the parent of whatever processes below it lose theirs."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def until(seconds: float, what: str, condition: Callable[[], object]) -> None:
    """Waits for a condition. Raises RuntimeError after so many seconds of a machine with nothing else to do."""
    deadline = time.monotonic() + PATIENCE * seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {PATIENCE * seconds:g} s in vain for {what}")
        time.sleep(0.1)


def process(pid: int) -> list[str]:
    """State, parent and further fields of /proc/PID/stat; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    return process(pid)[:1] not in ([], ["Z"])


def end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def end(pid: int) -> None:
    """TERM, then KILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        send(pid, number)
        with suppress(RuntimeError):
            until(STOP_S, "a daemon", lambda: not alive(pid))


def descendants(root: int) -> list[int]:
    """All processes below one, zombies left out."""
    parents = {int(path.name): int((process(int(path.name)) or ["", "0"])[1]) for path in Path("/proc").glob("[0-9]*")}
    found: list[int] = []
    fresh = {root}
    while fresh := {pid for pid, parent in parents.items() if parent in fresh and alive(pid)}:
        found += fresh
    return found


def reap() -> None:
    """Collects adopted children that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
