"""The paper's printed scores beside ours, where both exist; what it does not print stays empty.

Its numbers are in paper.yaml.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from sidewinder.report.data import Checkpoint, Score, StudyData
from sidewinder.report.figures.common import FigureTable
from sidewinder.report.text import count

PERCENT_METRICS = {"exact", "f1", "em", "best_exact", "best_f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"}
"""Metrics that lm-eval gives in percent already."""


def paper_numbers() -> dict[str, Any]:
    """Content of paper.yaml: `tasks` (name → lm-eval's task, variant, metric) and `runs` with their scores."""
    numbers: dict[str, Any] = yaml.safe_load(resources.files(__package__).joinpath("paper.yaml").read_text())
    return numbers


def paper_table(data: StudyData) -> FigureTable:
    """A row for each task, metric and suite of ours that the paper has numbers for: its runs, then our checkpoints."""
    numbers = paper_numbers()
    found = [(name, score) for name, about in numbers["tasks"].items() for score in _ours(about, data)]
    checkpoints = sorted({score.checkpoint for _, score in found})
    runs = [run for run in numbers["runs"] if any(name in run["scores"] for name, _ in found)]
    columns = [
        "task",
        "metric",
        "suite",
        *(_title(run) for run in runs),
        *(checkpoint.label for checkpoint in checkpoints),
    ]
    table = FigureTable(columns, words=frozenset({"task", "metric", "suite"}))
    for name, series in dict.fromkeys((name, score.series) for name, score in found):
        suite, _, metric, variant = series
        own = {score.checkpoint: score for other, score in found if (other, score.series) == (name, series)}
        shown = metric + (f" ({variant})" if variant else "")
        theirs = [_shown(run["scores"].get(name)) for run in runs]
        table.rows.append([name, shown, suite, *theirs, *(_own(own, checkpoint) for checkpoint in checkpoints)])
    return table


def _ours(about: dict[str, Any], data: StudyData) -> list[Score]:
    """Our scores of a task of the paper; of every metric where the paper does not tell its own."""
    return [
        score
        for score in data.scores
        if score.task == about["task"]
        and about["metric"] in (None, score.metric)
        and (about["variant"] is None or (score.variant or "").split(", ")[0] == about["variant"])
    ]


def _title(run: dict[str, Any]) -> str:
    return f"paper: {run['model']} {run['tokens']}, {count(run['context_tokens'])}"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _own(scores: dict[Checkpoint, Score], checkpoint: Checkpoint) -> str:
    score = scores.get(checkpoint)
    if score is None:
        return ""
    scale = 1 if score.metric in PERCENT_METRICS and score.task.startswith(("squad", "scrolls")) else 100
    error = "" if score.error is None else f" ± {scale * score.error:.2f}"
    return f"{scale * score.value:.2f}{error}"
