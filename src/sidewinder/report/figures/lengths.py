"""Score against context length: one panel for each task, variant and metric that has lengths."""

from __future__ import annotations

from itertools import groupby

from sidewinder.report.chart import Axes, Series, line_chart
from sidewinder.report.data import Checkpoint, Score, StudyData
from sidewinder.report.figures.common import Figure, FigureTable, dash, switches, told_apart
from sidewinder.report.interval import interval
from sidewinder.report.svg import round_ticks
from sidewinder.report.text import decimal, percent

SHARES = {
    "exact_match",
    "digit_agreement",
    "found",
    "acc",
    "acc_norm",
    "score",  # Of RULER and LongBench.
    "qa_f1_score",
    "classification_score",
}
"""Metrics that are means of samples' scores from 0 to 1. SQuAD's and SCROLLS' are percentages."""
WORDS = {
    "exact_match": "exact match",
    "digit_agreement": "digit agreement",
    "niah_single_1": "needle (RULER niah_single_1)",
    "bits_per_byte": "bits per byte",
}


def words(name: str) -> str:
    """A task's or metric's name as people write it."""
    return WORDS.get(name, name.replace("_", " "))


def series_title(score: Score) -> str:
    """`Phonebook, standard: exact match`."""
    task = words(score.task)
    name = ", ".join(part for part in (task, score.variant) if part)
    return f"{name[0].upper()}{name[1:]}: {words(score.metric)}"


def length_figures(data: StudyData) -> tuple[list[Figure], FigureTable]:
    """Panels in the order of the suites, and the table behind them."""
    figures = []
    about = ["suite", "task", "variant", "metric", "checkpoint"]
    table = FigureTable([*about, "length", "score", "±", "95 %", "n", "seeds"], words=frozenset(about))
    scores = [score for score in data.scores if score.context_tokens is not None]
    shares = [score.value for score in scores if score.metric in SHARES]
    top = next((top for top in (0.25, 0.5) if max(shares, default=1.0) <= top), 1.0)  # One axis for all panels.
    titles = told_apart({score.series: series_title(score) for score in scores})
    for place, (series, group) in enumerate(groupby(scores, key=lambda score: score.series)):
        members = list(group)
        if len({score.context_tokens for score in members}) > 1:
            figures.append(_panel(data, f"length-{place}", titles[series], members, top))
        table.rows.extend(_row(score) for score in members)
    return figures, table


def _panel(data: StudyData, name: str, title: str, scores: list[Score], top: float) -> Figure:
    lengths = sorted({score.context_tokens or 0 for score in scores})
    is_share = scores[0].metric in SHARES
    low, high = (0.0, top) if is_share else _range([score.value for score in scores])
    ticks = [(value, percent(value) if is_share else f"{value:.3g}") for value in round_ticks(low, high, 5)]
    axes = Axes(
        lengths[0], lengths[-1], low, high, _length_ticks(lengths), ticks, "prompt length, tokens", "", x_log=True
    )
    if scores[0].metric == "digit_agreement":
        axes.reference = (0.1, "guessing")
    groups = groupby(scores, key=lambda score: score.checkpoint)
    series = [_series(data, checkpoint, list(members), is_share) for checkpoint, members in groups]
    return Figure(title, line_chart(name, f"{title} against prompt length", axes, series, 500, 310))


def _series(data: StudyData, checkpoint: Checkpoint, scores: list[Score], is_share: bool) -> Series:
    def tip(score: Score) -> str:
        value = percent(score.value, 1) if is_share else decimal(score.value)
        span = _span(score)
        return f"{checkpoint.label}: {value}{f' ({span})' if span else ''} at {score.context_tokens:,} tokens"

    return Series(
        label=checkpoint.label,
        model=checkpoint.place,
        dash=dash(data, checkpoint),
        points=[(score.context_tokens or 0, score.value) for score in scores],
        attributes=switches(checkpoint),
        intervals=[_interval(score) for score in scores] if not checkpoint.extended else [],
        tips={place: tip(score) for place, score in enumerate(scores)},
        marked=True,
        ring=checkpoint.context_tokens,
    )


def _interval(score: Score) -> tuple[float, float] | None:
    return interval(score.values, score.stderr, score.n, score.metric in SHARES)


def _span(score: Score) -> str:
    """`41.2 to 53.8 %`, empty where it is not known."""
    found = _interval(score)
    if found is None:
        return ""
    low, high = found
    return f"{100 * low:.1f} to {percent(high, 1)}" if score.metric in SHARES else f"{decimal(low)} to {decimal(high)}"


def _range(values: list[float]) -> tuple[float, float]:
    pad = 0.08 * (max(values) - min(values)) or 0.1
    return min(values) - pad, max(values) + pad


def _length_ticks(lengths: list[int]) -> list[tuple[float, str]]:
    """`512`, `1k` (1,024), `8k`; every other one where there are many."""
    step = 1 + (len(lengths) - 1) // 9
    return [(value, f"{value // 1024}k" if value % 1024 == 0 else str(value)) for value in lengths[::step]]


def _row(score: Score) -> list[str]:
    return [
        score.suite,
        score.task,
        score.variant or "",
        score.metric,
        score.checkpoint.label,
        f"{score.context_tokens:,}",
        decimal(score.value, 4),
        decimal(score.error, 4),
        _span(score),
        "" if score.n is None else f"{score.n:,}",
        str(len(score.values)),
    ]
