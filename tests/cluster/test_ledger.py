"""Attempts told from events: why each ended, and when enough of them have failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidewinder.cluster.guard import superseded
from sidewinder.cluster.ledger import Attempt, Ledger, fruitless
from sidewinder.cluster.standing import UNKNOWN_NOTICE_S, Standing, notice_s, standing


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    (tmp_path / "cluster").mkdir()
    return Ledger(tmp_path)


def write(ledger: Ledger, *rows: dict[str, Any]) -> None:
    """Events at seconds 1, 2, 3, …; those of the job go into its own file."""
    for time, row in enumerate(rows, start=1):
        own = row["event"] in ("started", "stopped", "failed", "done", "past")
        with (ledger.folder / ("job-0.jsonl" if own else "controller.jsonl")).open("a") as stream:
            stream.write(json.dumps(row | {"time": float(time)}) + "\n")


def submitted(number: int, job: str) -> list[dict[str, Any]]:
    about = {"event": "submitting", "submission": number, "name": "ours", "launcher": "slurm", "cluster": "c"}
    return [about, {"event": "submitted", "submission": number, "job": job}]


def of(event: str, restart: int, number: int = 1, job: str = "7", **more: Any) -> dict[str, Any]:
    return {"event": event, "submission": number, "restart": restart, "job": job, **more}


def past(*states: str, job: str = "7") -> dict[str, Any]:
    starts = [{"state": state, "nodes": "n1", "exit_code": "0:0", "ended_at": 3.5} for state in states]
    return {"event": "past", "job": job, "starts": starts}


def reasons(ledger: Ledger) -> list[str | None]:
    return [attempt.reason for attempt in ledger.attempts()]


def test_what_the_job_says_comes_first_then_what_slurm_says(ledger: Ledger) -> None:
    write(
        ledger,
        *submitted(1, "7"),
        of("started", 0, nodes="n1"),
        of("stopped", 0, signal="SIGUSR2", reason="timeout"),
        of("started", 1, nodes="n1"),
        of("stopped", 1, signal="SIGTERM", reason=None),
        past("REQUEUED", "PREEMPTED", "RUNNING"),
        of("started", 2, nodes="n2"),
        of("failed", 2, error="connection closed", kind="RuntimeError", permanent=False),
        past("REQUEUED", "PREEMPTED", "NODE_FAIL", "RUNNING"),
        of("started", 3, nodes="n1"),
        of("failed", 3, error="too large", kind="OutOfMemoryError", permanent=False),
        {"event": "ended", "submission": 1, "job": "7", "restarts": 3, "state": "FAILED"},
    )
    assert reasons(ledger) == ["timeout", "preempted", "node failed", "out of memory"]
    assert ledger.open_submission() is None


def test_a_start_that_nothing_explains_was_killed_once_another_follows(ledger: Ledger) -> None:
    write(ledger, *submitted(1, "7"), of("started", 0), of("started", 1))
    assert reasons(ledger) == ["killed", None]


def test_a_job_that_never_started_is_an_attempt(ledger: Ledger) -> None:
    ended = {"event": "ended", "submission": 1, "job": "7", "restarts": 0, "state": "FAILED", "nodes": "n3"}
    write(ledger, *submitted(1, "7"), ended, *submitted(2, "8"), of("started", 0, 2, "8"), of("done", 0, 2, "8"))
    assert reasons(ledger) == ["killed", "finished"]
    assert ledger.attempts()[0].nodes == "n3"


def test_the_newest_submission_is_open_until_it_ended(ledger: Ledger) -> None:
    write(ledger, *submitted(1, "7"), {"event": "ended", "submission": 1, "job": "7"}, submitted(2, "8")[0])
    left = ledger.open_submission()
    assert left
    assert (left.number, left.job) == (2, None)


def test_a_line_that_a_kill_cut_short_is_passed_over(ledger: Ledger) -> None:
    write(ledger, *submitted(1, "7"))
    with (ledger.folder / "controller.jsonl").open("a") as stream:
        stream.write('{"event": "ended", "submiss')
    ledger.write("ended", submission=1, job="7")
    assert [row["event"] for row in ledger.rows()] == ["submitting", "submitted", "ended"]


def attempt(started_at: float, reason: str | None) -> Attempt:
    return Attempt(1, "7", 0, "slurm", "n1", started_at, started_at + 5, reason)


@pytest.mark.parametrize(
    ("reasons", "saves", "since", "count"),
    [
        (["failed", "failed", "killed"], [], 0, 3),
        (["failed", "failed", "killed"], [(12.0, 20)], 0, 2),  # The first attempt saved.
        (["failed", "failed", "killed"], [(12.0, 20), (22.0, 20)], 0, 2),  # The same step again is nothing new.
        (["failed", "failed", "killed"], [(12.0, 20), (32.0, 40)], 0, 0),
        (["failed", "failed", "killed"], [], 25, 1),  # Somebody gave it up, and another tried again.
        (["preempted", "requeued", "killed"], [], 0, 1),
        (["timeout", "timeout", "timeout"], [], 0, 3),
        (["timeout", "timeout", "timeout"], [(12.0, 1), (22.0, 2), (32.0, 3)], 0, 0),
        (["failed", "preempted", "failed"], [], 0, 2),
    ],
)
def test_failures_in_a_row_without_a_newer_save(
    reasons: list[str], saves: list[tuple[float, int]], since: float, count: int
) -> None:
    attempts = [attempt(10.0 * place, reason) for place, reason in enumerate(reasons, start=1)]
    assert fruitless(attempts, saves, since) == count


@pytest.mark.parametrize(
    ("slowest_save_s", "slowest_step_s", "minutes", "expected"),
    [
        (None, None, 1440, UNKNOWN_NOTICE_S),
        (200.0, 15.0, 1440, 460),
        (0.1, 0.2, 1440, 31),
        (4000.0, 10.0, 60, 1800),  # At most half the limit, so that something is trained.
        (None, None, 2, 60),
    ],
)
def test_notice_follows_from_the_saves(
    slowest_save_s: float | None, slowest_step_s: float | None, minutes: int, expected: int
) -> None:
    found = Standing(slowest_save_s=slowest_save_s, slowest_step_s=slowest_step_s)
    assert notice_s(found, minutes) == expected


def test_standing_is_read_from_the_end_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"event": "step", "step": step, "loss": 1 / step, "step_s": 0.5, "time": step} for step in range(1, 20001)]
    rows.insert(19_990, {"event": "save", "step": 19_990, "save_s": 7.0, "time": 19_990.5})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"event": "st')
    found = standing(path)
    assert (found.step, found.loss, found.step_s) == (20_000, 1 / 20_000, 0.5)
    assert found.slowest_save_s == 7.0
    assert found.saves == [(19_990.5, 19_990)]
    assert standing(tmp_path / "none.jsonl") == Standing()


@pytest.mark.parametrize(
    ("token", "later"), [("1.3", False), ("1.4", True), ("2.0", True), ("0.9", False), ("", False), ("x", False)]
)
def test_a_later_start_supersedes_this_one(tmp_path: Path, token: str, later: bool) -> None:
    (tmp_path / "current").write_text(token)
    assert superseded(tmp_path / "current", (1, 3)) is later
