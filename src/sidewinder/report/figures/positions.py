"""Look-ups by the place of the entry in the prompt, at each checkpoint's own length: a panel for each variant."""

from __future__ import annotations

from itertools import groupby

from sidewinder.report.chart import Axes, Series, line_chart
from sidewinder.report.data import Checkpoint, Row, StudyData
from sidewinder.report.figures.common import Figure, FigureTable, dash, switches, told_apart
from sidewinder.report.figures.lengths import words
from sidewinder.report.interval import interval
from sidewinder.report.questions import PARTS
from sidewinder.report.svg import round_ticks
from sidewinder.report.text import decimal, percent

STEP = 0.02
"""Models stand beside each other, this share of the prompt apart, so that their whiskers do not cover each other."""


def position_figures(data: StudyData) -> tuple[list[Figure], FigureTable]:
    """Panels of exact match at the longest length that each checkpoint was trained for; a table of all lengths."""
    shown = [row for row in data.positions if row["context_tokens"] == _own_length(row, data)]
    tops = [found[1] for row in shown if (found := _interval(row))]
    top = next((top for top in (0.25, 0.5) if max(tops, default=1.0) <= top), 1.0)
    figures = []
    titles = told_apart({_series_key(row): _title(row) for row in shown})
    for place, (series, rows) in enumerate(groupby(shown, key=_series_key)):
        figures.append(_panel(data, f"position-{place}", titles[series], list(rows), top))
    return figures, _table(data)


def _series_key(row: Row) -> tuple[str, str, str]:
    return row["suite"], row["task"], row["variant"] or ""


def _own_length(row: Row, data: StudyData) -> int | None:
    """The longest length asked that the row's checkpoint was trained for."""
    lengths = [
        other["context_tokens"] or 0
        for other in data.positions
        if other["checkpoint"] == row["checkpoint"] and _series_key(other) == _series_key(row)
    ]
    return max((length for length in lengths if length <= row["checkpoint"].context_tokens), default=None)


def _title(row: Row) -> str:
    task = ", ".join(part for part in (words(row["task"]), row["variant"]) if part)
    return f"{task[0].upper()}{task[1:]}: exact match by place"


def _panel(data: StudyData, name: str, title: str, rows: list[Row], top: float) -> Figure:
    x_ticks = [(place / PARTS, percent(place / PARTS)) for place in range(PARTS + 1)]
    y_ticks = [(value, percent(value)) for value in round_ticks(0, top, 5)]
    axes = Axes(0, 1, 0, top, x_ticks, y_ticks, "place of the entry in the prompt, first to last")
    lines = [_line(data, checkpoint, list(own)) for checkpoint, own in groupby(rows, key=lambda row: row["checkpoint"])]
    return Figure(title, line_chart(name, f"{title} of the entry", axes, lines, 500, 310))


def _line(data: StudyData, checkpoint: Checkpoint, rows: list[Row]) -> Series:
    shift = STEP * (checkpoint.place - (len(data.models) - 1) / 2)
    return Series(
        label=checkpoint.label,
        model=checkpoint.place,
        dash=dash(data, checkpoint),
        points=[((row["part"] - 0.5) / PARTS + shift, row["value"]) for row in rows],
        attributes=switches(checkpoint),
        intervals=[_interval(row) for row in rows] if not checkpoint.extended else [],
        tips={
            at: f"{checkpoint.label}: {percent(row['value'], 1)} ({_span(row)}) of {row['n']} at {_quarter(row)}, "
            f"{row['context_tokens']:,} tokens"
            for at, row in enumerate(rows)
        },
        marked=True,
    )


def _interval(row: Row) -> tuple[float, float] | None:
    return interval(row["values"], row["stderr"], row["n"], is_share=True)


def _span(row: Row) -> str:
    low, high = _interval(row) or (0.0, 1.0)
    return f"{100 * low:.1f} to {percent(high, 1)}"


def _quarter(row: Row) -> str:
    return f"{percent((row['part'] - 1) / PARTS)} to {percent(row['part'] / PARTS)}"


def _table(data: StudyData) -> FigureTable:
    columns = [
        "suite",
        "task",
        "variant",
        "checkpoint",
        "length",
        "place",
        "exact match",
        "95 %",
        "digit agreement",
        "n",
        "seeds",
    ]
    table = FigureTable(columns, words=frozenset({"suite", "task", "variant", "checkpoint", "place"}))
    for row in data.positions:
        table.rows.append(
            [
                row["suite"],
                row["task"],
                row["variant"] or "",
                row["checkpoint"].label,
                f"{row['context_tokens'] or 0:,}",
                _quarter(row),
                decimal(row["value"], 4),
                _span(row),
                decimal(row["digits"], 4),
                f"{row['n']:,}",
                str(len(row["values"])),
            ]
        )
    return table
