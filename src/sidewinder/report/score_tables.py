"""The tables of scores: cells as (what is shown, what is sorted by)."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidewinder.report.data import Score, StudyData
from sidewinder.report.figures.common import switches, told_apart
from sidewinder.report.figures.lengths import SHARES, words
from sidewinder.report.text import count, decimal, percent


@dataclass
class Cell:
    """One cell; `sort` is a number or text by which the browser orders rows."""

    shown: str
    sort: str = ""
    best: bool = False
    hint: str = ""


@dataclass
class Table:
    """A table; `attributes` of a row let the legend hide it, `model` colours its first cell."""

    columns: list[str]
    words: frozenset[str] = frozenset()
    rows: list[list[Cell]] = field(default_factory=list)
    attributes: list[dict[str, str]] = field(default_factory=list)
    models: list[int | None] = field(default_factory=list)

    def add(self, cells: list[Cell], attributes: dict[str, str] | None = None, model: int | None = None) -> None:
        """Adds a row."""
        self.rows.append(cells)
        self.attributes.append(attributes or {})
        self.models.append(model)


def score_value(score: Score) -> str:
    """Shares in percent, everything else as it is, with the error behind it."""
    is_share = score.metric in SHARES
    value = percent(score.value, 1) if is_share else decimal(score.value)
    if score.error is None:
        return value
    return f"{value} ± {100 * score.error:.1f}" if is_share else f"{value} ± {decimal(score.error)}"


def leaderboard(data: StudyData) -> Table:
    """Checkpoints as rows, the main scores as columns; lengths are each checkpoint's own trained context."""
    main = [score for score in data.scores if _is_main(score, data)]
    names = told_apart({score.series: _column(score) for score in main})
    columns = list(dict.fromkeys(names.values()))
    table = Table(["checkpoint", "trained context", *columns], frozenset({"checkpoint"}))
    for checkpoint in sorted(data.checkpoints, key=lambda other: (other.context_tokens, other.extended, other.place)):
        own = {names[score.series]: score for score in main if score.checkpoint == checkpoint}
        cells = [Cell(checkpoint.label), Cell(count(checkpoint.context_tokens), str(checkpoint.context_tokens))]
        for column in columns:
            score = own.get(column)
            if score is None:
                cells.append(Cell("–", ""))
                continue
            rivals = [other for other in main if other.series == score.series and _stage(other) == _stage(score)]
            at = f" at {score.context_tokens:,} tokens" if score.context_tokens else ""
            hint = f"{score.n or 0:,} samples{at}"
            cells.append(Cell(score_value(score), repr(score.value), _is_best(score, rivals), hint))
        table.add(cells, switches(checkpoint), checkpoint.place)
    return table


def _stage(score: Score) -> tuple[bool, int]:
    return score.checkpoint.extended, score.checkpoint.context_tokens


def _is_main(score: Score, data: StudyData) -> bool:
    if score.metric == "digit_agreement" or score.part_of:
        return False
    if score.metric == "bits_per_byte":
        return score.task == "blend" or not any(other.task == "blend" for other in data.scores)
    lengths = [
        other.context_tokens or 0
        for other in data.scores
        if other.checkpoint == score.checkpoint
        and other.series == score.series
        and (other.context_tokens or 0) <= score.checkpoint.context_tokens
    ]
    return score.context_tokens is None or score.context_tokens == max(lengths, default=None)


def _column(score: Score) -> str:
    task = words(score.task).split(" (")[0] if score.task != "blend" else "held-out text"
    return " ".join(part for part in (task, score.variant, words(score.metric)) if part)


def _is_best(score: Score, rivals: list[Score]) -> bool:
    """Whether no rival is better; nobody is the best where all are equal."""
    values = {rival.value for rival in rivals}
    return len(values) > 1 and score.value == (min(values) if score.lower_is_better else max(values))


def all_scores(data: StudyData) -> Table:
    """Every score with its error, samples, seeds and the digest of its file."""
    table = Table(
        ["checkpoint", "suite", "task", "variant", "metric", "length", "score", "±", "n", "seeds", "scores.json"],
        frozenset({"checkpoint", "suite", "task", "variant", "metric", "scores.json"}),
    )
    for score in data.scores:
        table.add(
            [
                Cell(score.checkpoint.label),
                Cell(score.suite),
                Cell(score.task),
                Cell(score.variant or ""),
                Cell(score.metric),
                Cell(count(score.context_tokens) if score.context_tokens else "", str(score.context_tokens or 0)),
                Cell(decimal(score.value, 4), repr(score.value)),
                Cell(decimal(score.error, 4) if score.error is not None else "", repr(score.error or 0.0)),
                Cell(count(score.n), str(score.n or 0)),
                Cell(str(len(score.values))),
                Cell(score.artifact.rsplit("@", 1)[-1], hint=score.artifact),
            ],
            switches(score.checkpoint),
            score.checkpoint.place,
        )
    return table
