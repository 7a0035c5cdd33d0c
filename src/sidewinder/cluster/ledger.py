"""What was done about a stage's jobs, written down before and after it is done; nothing is ever rewritten.

    <stage folder>/cluster/controller.jsonl    submitting, submitted, ended, gave_up, cancelled, past
                           job-0.jsonl         started, stopped, failed, done, past    (by a job's first task)
                           job-1.jsonl …       failed                                  (by the others)
                           submitted-1.pkl  study.json  123_submission.sh  123_0_log.err …

A *submission* is one job handed to the launcher; an *attempt* is one start of it, since Slurm may start a job again
after a time limit, a preemption or the loss of a node. All files are read as one list of events, in order of time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sidewinder.train.metrics import MetricsWriter

FOLDER = "cluster"
# Slurm's last word on a start → why it ended.
REASONS = {
    "COMPLETED": "finished",
    "TIMEOUT": "timeout",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node failed",
    "BOOT_FAIL": "node failed",
    "REQUEUED": "requeued",
    "CANCELLED": "cancelled",
    "OUT_OF_MEMORY": "out of memory",
    "FAILED": "killed",
    "GONE": "lost",
}
FROM_OUTSIDE = {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REQUEUED", "CANCELLED", "OUT_OF_MEMORY", "TIMEOUT"}
"""After these, what the tasks complain of is the consequence."""
FAULTS = {"timeout", "failed", "killed", "node failed", "out of memory"}
"""Ends that may be the job's own doing."""


@dataclass(frozen=True)
class Submission:
    """A job that was, or may have been, handed to a launcher; `job` is None while nobody wrote down its number."""

    number: int
    name: str
    launcher: str
    cluster: str
    submitted_at: float
    job: str | None = None
    ended: bool = False
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """One start of a job. `reason` is None while it runs, or where nothing tells why it ended."""

    submission: int
    job: str | None
    restart: int
    launcher: str
    nodes: str
    started_at: float
    ended_at: float | None
    reason: str | None
    state: str = ""
    error: str = ""
    permanent: bool = False

    @property
    def faulty(self) -> bool:
        """Whether it ended by a fault, for which attempts are limited; one that ended without a word counts."""
        return self.reason in FAULTS or (self.reason is None and self.ended_at is not None)


class Ledger:
    """Reads and writes the events of one stage."""

    def __init__(self, stage_folder: Path) -> None:
        self.folder = stage_folder.absolute() / FOLDER

    def write(self, event: str, **fields: Any) -> None:
        """A controller's event."""
        _append(self.folder / "controller.jsonl", event, fields)

    def write_from_job(self, task: int, event: str, **fields: Any) -> None:
        """An event of a task of the job."""
        _append(self.folder / f"job-{task}.jsonl", event, fields)

    def rows(self) -> list[dict[str, Any]]:
        """All events in order of time."""
        files = [self.folder / "controller.jsonl", *sorted(self.folder.glob("job-*.jsonl"))]
        found = [row for file in files for row in _rows(file)]
        return sorted(found, key=lambda row: row["time"])

    def submissions(self) -> list[Submission]:
        """All submissions of the stage, oldest first."""
        found: dict[int, dict[str, Any]] = {}
        for row in _rows(self.folder / "controller.jsonl"):
            if row["event"] == "submitting":
                keys = ("name", "launcher", "cluster")
                number = row["submission"]
                found[number] = {"number": number, "submitted_at": row["time"]} | {key: row[key] for key in keys}
            elif row["event"] == "submitted":
                found[row["submission"]] |= {"job": row["job"], "detail": row}
            elif row["event"] == "ended":
                found[row["submission"]]["ended"] = True
        return [Submission(**values) for _, values in sorted(found.items())]

    def open_submission(self) -> Submission | None:
        """The newest submission, unless it is known to have ended."""
        last = next(iter(reversed(self.submissions())), None)
        return last if last and not last.ended else None

    def attempts(self) -> list[Attempt]:
        """Every start of every job, and every job that ended without one, oldest first."""
        rows, submissions = self.rows(), self.submissions()
        starts = [row for row in rows if row["event"] == "started"]
        keys = [(row["submission"], row["restart"]) for row in starts]
        nexts = [row["time"] for row in starts[1:]]
        found = [
            _attempt(rows, row, key, next_start, submissions)
            for row, key, next_start in zip_longest(starts, keys, nexts)
        ]
        begun = {row["submission"] for row in starts}
        for row in rows:
            if row["event"] == "ended" and row["submission"] not in begun and row.get("state"):
                found.append(_stillborn(row, submissions))
        return sorted(found, key=lambda attempt: attempt.started_at)

    def closed_at(self) -> float:
        """When somebody last gave the stage up or cancelled it: what was before does not count against it."""
        return max((row["time"] for row in self.rows() if row["event"] in ("gave_up", "cancelled")), default=0.0)


def _attempt(
    rows: list[dict[str, Any]],
    started: dict[str, Any],
    key: tuple[int, int],
    next_start: float | None,
    submissions: list[Submission],
) -> Attempt:
    own = [row for row in rows if (row.get("submission"), row.get("restart")) == key]
    of = next((entry for entry in submissions if entry.number == key[0]), None)
    first = {row["event"]: row for row in reversed(own)}  # Of several failures the first is the cause.
    error = first.get("failed", {})
    state, ended_at = _fate(rows, started["job"], key[1])
    ended_at = next((row["time"] for row in own if row["event"] in ("stopped", "failed", "done")), ended_at)
    reason = _reason(first, state)
    if reason is None and next_start is not None:
        reason, ended_at = "killed", ended_at or next_start
    return Attempt(
        submission=key[0],
        job=started["job"],
        restart=key[1],
        launcher=of.launcher if of else "",
        nodes=started.get("nodes", ""),
        started_at=started["time"],
        ended_at=ended_at,
        reason=reason,
        state=state,
        error=error.get("error", ""),
        permanent=error.get("permanent", False),
    )


def _fate(rows: list[dict[str, Any]], job: str, restart: int) -> tuple[str, float | None]:
    """Slurm's state at the end of a start, and when that was; ("", None) while unknown."""
    state, ended_at = "", None
    for row in rows:
        if row.get("job") != job:
            continue
        if row["event"] == "past" and restart < len(row["starts"]):
            state, ended_at = row["starts"][restart]["state"], row["starts"][restart]["ended_at"]
        elif row["event"] == "ended" and row.get("restarts") == restart and row.get("state"):
            state, ended_at = row["state"], row["time"]
    return state, ended_at


def _reason(first: dict[str, dict[str, Any]], state: str) -> str | None:
    if "done" in first:
        return "finished"
    if known := first.get("stopped", {}).get("reason"):
        return str(known)
    if "failed" in first and state not in FROM_OUTSIDE:
        return "out of memory" if first["failed"].get("kind") in ("OutOfMemoryError", "MemoryError") else "failed"
    return REASONS.get(state)


def _stillborn(row: dict[str, Any], submissions: list[Submission]) -> Attempt:
    of = next(entry for entry in submissions if entry.number == row["submission"])
    reason = REASONS.get(row["state"], "killed")
    return Attempt(
        submission=of.number,
        job=of.job,
        restart=0,
        launcher=of.launcher,
        nodes=row.get("nodes", ""),
        started_at=of.submitted_at,
        ended_at=row["time"],
        reason="failed" if reason == "finished" else reason,
        state=row["state"],
    )


def log_path(folder: Path, job: str | None, task: int = 0) -> Path:
    """What a task of a job wrote to stderr, all its starts one after another."""
    return folder / f"{job}_{task}_log.err"


def fruitless(attempts: list[Attempt], saves: list[tuple[float, int]], since: float) -> int:
    """How many attempts in a row, up to the last, failed without a save newer than all before.

    `saves` are (time, step) of the saves that are known, oldest first. Attempts before `since`, and those that were
    cut off for others' sake (preempted, requeued by hand), do not count.
    """
    count = 0
    for place, attempt in enumerate(attempts):
        if attempt.started_at < since:
            continue
        until = attempts[place + 1].started_at if place + 1 < len(attempts) else float("inf")
        before = max((step for time, step in saves if time < attempt.started_at), default=0)
        if any(attempt.started_at <= time < until and step > before for time, step in saves):
            count = 0
        elif attempt.faulty:
            count += 1
    return count


def _append(path: Path, event: str, fields: dict[str, Any]) -> None:
    with MetricsWriter(path) as writer:
        writer.write(event, **fields)
        writer.sync()


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:  # Cut short by a kill.
            continue
    return rows
