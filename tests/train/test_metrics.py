"""metrics.jsonl: appended only, read with the last row of each step, whatever a kill left at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidewinder.train.metrics import MetricsWriter, read_metrics, set_aside_metrics


def run(path: Path, event: str, first: int, last: int, mark: str = "", identity: str = "a" * 64) -> None:
    with MetricsWriter(path) as writer:
        writer.write(event, from_step=first, identity=identity, code="c")
        for step in range(first + 1, last + 1):
            writer.write("step", step=step, loss=1.0 / step, mark=mark)


def test_resume_supersedes_and_erases_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    run(path, "start", 0, 5, "old")
    before = path.read_bytes()
    run(path, "resume", 3, 4, "new")
    assert path.read_bytes().startswith(before)
    metrics = read_metrics(path)
    assert [(row["step"], row["mark"]) for row in metrics.steps] == [(1, "old"), (2, "old"), (3, "old"), (4, "new")]
    assert [attempt["from_step"] for attempt in metrics.attempts] == [0, 3]


def test_rollback_supersedes_what_it_does_not_repeat(tmp_path: Path) -> None:
    """Back from step 5 to the save of step 2; the replay skips step 3, whose earlier row must not count."""
    path = tmp_path / "metrics.jsonl"
    run(path, "start", 0, 4)
    with MetricsWriter(path) as writer:
        writer.write("rollback", step=5, from_step=2, message="why")
        writer.write("skip", step=3, loss="nan")
        writer.write("step", step=4, loss=0.5)
    metrics = read_metrics(path)
    assert [row["step"] for row in metrics.steps] == [1, 2, 4]
    assert len(metrics.attempts) == 1


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_half_a_line_at_the_end(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    run(path, "start", 0, 3)
    path.write_bytes(path.read_bytes()[:-cut])
    whole = [row["step"] for row in read_metrics(path).steps]
    assert whole in ([1, 2], [1, 2, 3])
    run(path, "resume", 2, 4)
    assert [row["step"] for row in read_metrics(path).steps] == [1, 2, 3, 4]


def test_missing_file_is_empty(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none").steps == []


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer, pytest.raises(ValueError, match="JSON"):
        writer.write("step", step=1, loss=float("nan"))


def test_metrics_of_another_identity_are_moved(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    run(path, "start", 0, 2, identity="b" * 64)
    assert set_aside_metrics(path, "b" * 64) is None
    assert set_aside_metrics(path, "a" * 64) == tmp_path / "metrics-bbbbbbbb.jsonl"
    assert not path.exists()
