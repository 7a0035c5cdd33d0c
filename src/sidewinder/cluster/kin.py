"""Processes of this machine: which one is which, and whose child this one is."""

from __future__ import annotations

import os
from pathlib import Path

GENERATIONS = 4


def started(pid: int) -> str | None:
    """When a process began, in ticks since boot, which tells it from a later one of the same number; None if ended."""
    fields = _stat(pid)
    return None if not fields or fields[0] == "Z" else fields[19]


def same_process(pid: int, start: str | None) -> bool:
    """Whether the process that began then is still there."""
    return start is not None and started(pid) == start


def command(pid: int) -> list[str]:
    """Its command line; empty where it cannot be read."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def snakemake_above() -> tuple[int, str | None] | None:
    """The Snakemake that this process works for, and when it began; None where it was started by hand."""
    pid = os.getppid()
    for _ in range(GENERATIONS):
        if any("snakemake" in word for word in command(pid)[:3]):
            return pid, started(pid)
        fields = _stat(pid)
        if not fields or fields[1] == "0":
            break
        pid = int(fields[1])
    return None


def _stat(pid: int) -> list[str]:
    """State, parent and further fields of /proc/PID/stat; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
