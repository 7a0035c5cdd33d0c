"""The tables and panels of scores, where suites share tasks and metrics are shares or are not."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from sidewinder.report.data import Checkpoint, Score, StudyData
from sidewinder.report.figures.bytes import byte_figures
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


def bits(value: float, **about: Any) -> Score:
    return score(value, kind="bits_per_byte", task="blend", metric="bits_per_byte", lower_is_better=True, **about)


def test_held_out_text_of_two_suites_stands_apart() -> None:
    """Neither hides the other, and no model is compared with itself."""
    longer = Checkpoint(0, 8192, True, "plain")
    first = [bits(1.5), bits(1.25, checkpoint=MIXED), bits(1.375, checkpoint=longer)]
    other = [bits(2.5, suite="formats"), bits(2.75, suite="formats", checkpoint=MIXED)]
    english = bits(1.0)
    english = Score(**vars(english) | {"task": "english"})
    figures, table = byte_figures(study(*first, *other, english))
    titles = [f"all text, by the shares of the blend ({suite})" for suite in ("standard", "formats")]
    assert [figure.title for figure in figures] == [*titles, "english"]
    assert table.columns == ["checkpoint", "blend (standard)", "blend (formats)", "english"]
    assert table.rows == [
        ["plain pretrain-4096", "1.5000", "2.5000", "1.0000"],
        ["plain extend-8192", "1.3750", "–", "–"],
        ["mixed pretrain-4096", "1.2500", "2.7500", "–"],
    ]
    told = dict(verdict(study(*first, *other)))
    assert "mixed 1.250 and plain 1.500. The first two differ by 0.250" in told["Held-out text (standard)"]
    assert "plain 2.500 and mixed 2.750. The first two differ by 0.250" in told["Held-out text (formats)"]
    assert told["Plain to 8,192"] == "1.500 → 1.375 bits per byte (standard)."
    assert byte_figures(study(*first))[0][0].title == "all text, by the shares of the blend"
    assert "Held-out text" in dict(verdict(study(*first)))


def test_shots_of_a_task_with_bits_per_byte_stand_apart() -> None:
    scores = [
        score(value, task="wikitext", metric="bits_per_byte", variant=f"{shots}-shot")
        for shots, value in ((0, 1.5), (5, 1.25))
    ]
    figures, table = byte_figures(study(*scores))
    assert [figure.title for figure in figures] == table.columns[1:] == ["wikitext, 0-shot", "wikitext, 5-shot"]
    assert table.rows == [["plain pretrain-4096", "1.5000", "1.2500"]]
