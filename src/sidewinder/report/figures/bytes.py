"""Held-out bits per byte by source: a panel each, all with the same span, so that distances compare."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from sidewinder.report.data import Score, StudyData
from sidewinder.report.figures.common import Figure, FigureTable, switches, told_apart
from sidewinder.report.svg import CHARACTER, Panel, Scale, mark, picture, round_ticks, tag, text
from sidewinder.report.text import decimal

METRIC, BLEND = "bits_per_byte", "blend"
ROW = 26


def byte_scores(data: StudyData) -> list[Score]:
    """Bits per byte of all sources and checkpoints."""
    return [score for score in data.scores if score.metric == METRIC and score.context_tokens is None]


def byte_sources(data: StudyData) -> list[str]:
    """Sources with scores: the whole blend first, then by their share."""
    found = {score.task for score in byte_scores(data)}
    order = [BLEND, *(row["source"] for row in data.corpus)]
    return [name for name in order if name in found] + sorted(found - set(order))


def byte_figures(data: StudyData) -> tuple[list[Figure], FigureTable]:
    """One panel a source, and a table with checkpoints as rows; of each suite, where several tell of a source."""
    order = byte_sources(data)
    groups: dict[tuple[Any, ...], list[Score]] = {}
    for score in sorted(byte_scores(data), key=lambda score: order.index(score.task)):
        groups.setdefault(score.series, []).append(score)
    values = [[score.value for score in scores] for scores in groups.values()]
    span = 1.3 * max((max(found) - min(found) for found in values), default=0) or 0.2
    titles = told_apart(
        {series: _name(scores[0], "all text, by the shares of the blend") for series, scores in groups.items()}
    )
    figures = [_panel(data, titles[series], scores, span) for series, scores in groups.items()]
    return figures, _table(data, groups)


def _name(score: Score, blend: str = BLEND) -> str:
    source = blend if score.task == BLEND else score.task
    return ", ".join(part for part in (source, score.variant) if part)


def _panel(data: StudyData, name: str, scores: list[Score], span: float) -> Figure:
    models = [model for model in data.models if any(score.checkpoint.model == model for score in scores)]
    middle = (min(score.value for score in scores) + max(score.value for score in scores)) / 2
    left = 14 + CHARACTER * max(map(len, models))
    height = 40 + ROW * len(models)
    panel = Panel(Scale(middle - span / 2, middle + span / 2, left, 326), Scale(0, 1, height - 34, 4))
    panel.grid_x([(value, f"{value:.2f}") for value in round_ticks(panel.x.low, panel.x.high, 5)], lines=True)
    for place, model in enumerate(models):
        _row(panel, model, [score for score in scores if score.checkpoint.model == model], 6 + ROW * (place + 0.5))
    svg = picture(340, height, panel.items, f"Bits per byte of {name}")
    return Figure(name, svg)


def _row(panel: Panel, model: str, scores: list[Score], y: float) -> None:
    """A model's checkpoints: the pretrained one filled, extensions as rings."""
    panel.add(text(panel.left - 8, y + 4, model, "tick end", **{"data-model": model}))
    panel.add(tag("line", x1=panel.left, x2=panel.right, y1=y, y2=y, class_="rule"))
    for score in sorted(scores, key=lambda score: not score.checkpoint.extended):
        panel.add(_dot(panel, score, y))


def _dot(panel: Panel, score: Score, y: float) -> Markup:
    x, place = panel.x(score.value), score.checkpoint.place
    parts = []
    if score.error and not score.checkpoint.extended:
        start = panel.x(max(score.value - score.error, panel.x.low))
        stop = panel.x(min(score.value + score.error, panel.x.high))
        parts.append(tag("line", x1=start, x2=stop, y1=y, y2=y, class_="whisker"))
    parts.append(mark(place, x, y, 5, "open" if score.checkpoint.extended else "dot"))
    error = "" if score.error is None else f" ± {score.error:.3f}"
    tip = f"{score.checkpoint.label}: {score.value:.3f}{error} bits per byte"
    parts.append(tag("circle", cx=x, cy=y, r=9.0, class_="hit", data_tip=tip))
    return tag("g", *parts, class_=f"m{place % 8}", **switches(score.checkpoint))


def _table(data: StudyData, groups: dict[tuple[Any, ...], list[Score]]) -> FigureTable:
    columns = told_apart({series: _name(scores[0]) for series, scores in groups.items()})
    table = FigureTable(["checkpoint", *columns.values()], words=frozenset({"checkpoint"}))
    for checkpoint in data.checkpoints:
        own = {score.series: score for scores in groups.values() for score in scores if score.checkpoint == checkpoint}
        if own:
            cells = [decimal(own[series].value, 4) if series in own else "–" for series in columns]
            table.rows.append([checkpoint.label, *cells])
    return table
