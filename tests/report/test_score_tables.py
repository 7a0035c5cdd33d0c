"""The tables and panels of scores, where suites share tasks and metrics are shares or are not."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from sidewinder.report.data import Checkpoint, Score, StudyData
from sidewinder.report.figures.lengths import length_figures
from sidewinder.report.score_tables import leaderboard
from sidewinder.report.verdict import verdict

PLAIN = Checkpoint(0, 4096, False, "plain")
MIXED = Checkpoint(1, 4096, False, "mixed")


def score(value: float, **about: Any) -> Score:
    known = {"checkpoint": PLAIN, "suite": "standard", "kind": "harness", "task": "mmlu", "metric": "acc"}
    known |= {"variant": None, "context_tokens": None, "lower_is_better": False, "stderr": 0.0, "n": 100}
    return Score(**known | {"values": (value,), "artifact": "scores.json@1"} | about)


def study(*scores: Score) -> StudyData:
    checkpoints = sorted({entry.checkpoint for entry in scores})
    return StudyData("s", {}, ["plain", "mixed"], ["standard", "formats"], checkpoints, scores=list(scores))


def test_suites_that_run_the_same_task_have_a_column_each() -> None:
    scores = [score(0.25), score(0.75, suite="formats"), score(0.5, task="piqa"), score(0.5, checkpoint=MIXED)]
    table = leaderboard(study(*scores))
    assert table.columns[2:] == ["mmlu acc (standard)", "mmlu acc (formats)", "piqa acc"]
    shown = [[(cell.sort, cell.best) for cell in row[2:]] for row in table.rows]
    assert shown == [
        [("0.25", False), ("0.75", False), ("0.5", False)],
        [("0.5", True), ("", False), ("", False)],
    ]


@pytest.mark.parametrize(
    ("task", "metric"), [("ruler_vt", "score"), ("longbench_trec", "classification_score"), ("piqa", "acc")]
)
def test_a_share_that_is_always_one_has_a_width(task: str, metric: str) -> None:
    scores = [score(1.0, task=task, metric=metric, context_tokens=length) for length in (4096, 8192)]
    figures, table = length_figures(study(*scores))
    row = dict(zip(table.columns, table.rows[0], strict=True))
    low = stats.binomtest(100, 100).proportion_ci(method="wilson").low
    assert row["95 %"] == f"{100 * low:.1f} to 100.0\u00a0%"
    assert len(figures) == 1


def test_panels_and_findings_of_two_suites_tell_which() -> None:
    scores = [
        score(value, suite=suite, task="phonebook", metric="exact_match", context_tokens=length)
        for suite, value in (("standard", 0.25), ("formats", 0.75))
        for length in (2048, 4096)
    ]
    figures, table = length_figures(study(*scores))
    assert [figure.title for figure in figures] == [
        "Phonebook: exact match (standard)",
        "Phonebook: exact match (formats)",
    ]
    assert [row[0] for row in table.rows] == ["standard", "standard", "formats", "formats"]
    told = dict(verdict(study(*scores)))
    assert "plain 25\u00a0%" in told["Phonebook (standard)"]
    assert "plain 75\u00a0%" in told["Phonebook (formats)"]
    assert length_figures(study(*scores[:2]))[0][0].title == "Phonebook: exact match"
