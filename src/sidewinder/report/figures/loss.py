"""Training loss: against tokens for all models on one axis, and against compute, time, and in the extensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sidewinder.report.chart import Axes, Series, line_chart
from sidewinder.report.data import Checkpoint, StudyData
from sidewinder.report.figures.common import Figure, FigureTable, dash, smooth, switches, thin
from sidewinder.report.svg import round_ticks
from sidewinder.report.text import decimal, short, tick

MOST_POINTS, MOST_TIPS, MOST_ROWS = 240, 24, 20
SHOWN_FROM = 0.1  # Share of the steps whose loss may be cut off at the top: it falls from ln(vocabulary).
SMOOTHING = 1 / 60  # Standard deviation of the smoothing window, as a share of the steps.


@dataclass
class Curve:
    """Loss of a checkpoint's training, over its seeds, one entry a step."""

    checkpoint: Checkpoint
    tokens: list[float]
    total_tokens: list[float]
    elapsed_s: list[float]
    flops_per_token: float | None
    loss: list[float]
    smoothed: list[float]
    low: list[float]
    high: list[float]
    seeds: int


def curves(data: StudyData) -> list[Curve]:
    """A curve for every stage of the study that made steps, finished or not."""
    grouped: dict[Checkpoint, list[str]] = {}
    for stage in data.stages:
        if stage["stage"] in data.curves:
            checkpoint = Checkpoint(
                data.place(stage["model"]), stage["context_tokens"], stage["kind"] == "extend", stage["model"]
            )
            grouped.setdefault(checkpoint, []).append(stage["stage"])
    return [_curve(data, checkpoint, stages) for checkpoint, stages in grouped.items()]


def _curve(data: StudyData, checkpoint: Checkpoint, stages: list[str]) -> Curve:
    runs = [data.curves[stage] for stage in stages]
    steps = min(len(run) for run in runs)  # Seeds that are still training are shown as far as all have come.
    width = max(1.0, steps * SMOOTHING)
    smoothed = [smooth([row["loss"] for row in run[:steps]], width) for run in runs]

    def mean(column: str) -> list[float]:
        return [math.fsum(run[at][column] or 0 for run in runs) / len(runs) for at in range(steps)]

    across = list(zip(*smoothed, strict=True))
    return Curve(
        checkpoint,
        mean("tokens"),
        mean("total_tokens"),
        mean("elapsed_s"),
        data.mean(checkpoint, "flops_per_token"),
        mean("loss"),
        [math.fsum(values) / len(values) for values in across],
        [min(values) for values in across],
        [max(values) for values in across],
        len(runs),
    )


def loss_figures(data: StudyData) -> tuple[Figure | None, list[Figure], FigureTable]:
    """The main figure, smaller ones beside it, and the table behind them."""
    found = curves(data)
    pretrained = [curve for curve in found if not curve.checkpoint.extended]
    extended = [curve for curve in found if curve.checkpoint.extended]
    table = _table(found)
    if not pretrained:
        return None, [], table
    return _main(data, pretrained), _others(data, pretrained, extended), table


def _main(data: StudyData, pretrained: list[Curve]) -> Figure:
    label = "Training loss against tokens for all models"

    def draw(name: str, width: int, height: int, ticks: int) -> Figure:
        axes, series = _chart(data, pretrained, lambda curve: curve.tokens, "training tokens", ticks, named=True)
        return Figure("", line_chart(name, label, axes, series, width, height))

    many = max(curve.seeds for curve in pretrained)
    over = (
        f"mean over {many} seeds, smoothed; the band reaches from the lowest to the highest seed"
        if many > 1
        else ("faint: every step; strong: smoothed with a Gaussian window of 1/60 of the steps")
    )
    caption = f"Training loss, {over}. The steep beginning is cut off."
    return Figure("Loss against tokens", draw("loss", 1040, 400, 10).svg, caption, draw("loss-narrow", 400, 330, 5).svg)


def _others(data: StudyData, pretrained: list[Curve], extended: list[Curve]) -> list[Figure]:
    figures = []
    if extended:
        axes, series = _chart(data, extended, lambda curve: curve.tokens, "tokens of the extension", 4)
        svg = line_chart("loss-extend", "Training loss of the extensions", axes, series, 340, 260)
        figures.append(
            Figure("In the extensions", svg, "Each starts from the pretrained checkpoint; line style is the context.")
        )
    if all(curve.flops_per_token for curve in pretrained):

        def flops(curve: Curve) -> list[float]:
            return [tokens * (curve.flops_per_token or 0) for tokens in curve.tokens]

        axes, series = _chart(data, pretrained, flops, "training FLOPs", 4)
        svg = line_chart("loss-flops", "Training loss against FLOPs", axes, series, 340, 260)
        figures.append(Figure("At equal compute", svg, "Floating-point operations of the matrix products and scans."))
    axes, series = _chart(data, pretrained, lambda curve: curve.elapsed_s, "seconds in training steps", 4)
    svg = line_chart("loss-time", "Training loss against time", axes, series, 340, 260)
    figures.append(Figure("At equal time", svg, "Time of the steps alone, without saves and set-up."))
    return figures


def _chart(
    data: StudyData,
    found: Sequence[Curve],
    across: Callable[[Curve], list[float]],
    title: str,
    ticks: int,
    *,
    named: bool = False,
) -> tuple[Axes, list[Series]]:
    series = [_series(data, curve, across(curve), named) for curve in found]
    low, high = _loss_range(found)
    x_high = _rounded(max(across(curve)[-1] for curve in found), ticks)
    y_ticks = [(value, f"{value:.{_places(high - low)}f}") for value in round_ticks(low, high, 6)]
    x_ticks = [(value, tick(value)) for value in round_ticks(0, x_high, ticks)]
    return Axes(0, x_high, low, high, x_ticks, y_ticks, title, "loss, nats per token"), series


def _rounded(high: float, ticks: int) -> float:
    """The end of an axis: the next round number where it is near."""
    step = round_ticks(0, high, ticks)[1]
    above = math.ceil(high / step - 1e-9) * step
    return above if above <= 1.03 * high else high


def _loss_range(found: Sequence[Curve]) -> tuple[float, float]:
    low = min(min(curve.low) for curve in found)
    high = max(max(curve.high[int(SHOWN_FROM * len(curve.high)) :]) for curve in found)
    pad = 0.08 * (high - low) or 0.1
    return low - pad, high + pad


def _places(span: float) -> int:
    return 1 if span > 1.5 else 2


def _series(data: StudyData, curve: Curve, x: list[float], named: bool) -> Series:
    kept = thin(len(x), MOST_POINTS)
    tips = set(thin(len(kept), MOST_TIPS))
    name = curve.checkpoint.model if not curve.checkpoint.extended else curve.checkpoint.label
    return Series(
        label=curve.checkpoint.label,
        model=curve.checkpoint.place,
        dash=dash(data, curve.checkpoint),
        points=[(x[at], curve.smoothed[at]) for at in kept],
        attributes=switches(curve.checkpoint),
        raw=[(x[at], curve.loss[at]) for at in kept] if curve.seeds == 1 else [],
        band=[(x[at], curve.low[at], curve.high[at]) for at in kept] if curve.seeds > 1 else [],
        tips={
            place: f"{name}: loss {curve.smoothed[at]:.3f} at {short(curve.tokens[at])} tokens"
            for place, at in enumerate(kept)
            if place in tips
        },
        end_label=f"{curve.checkpoint.model} {curve.smoothed[-1]:.2f}" if named else "",
    )


def _table(found: Sequence[Curve]) -> FigureTable:
    """Smoothed loss of every checkpoint at a few numbers of tokens."""
    table = FigureTable(["checkpoint", "step", "tokens", "tokens with parents", "loss", "smoothed", "seeds"])
    table.words = frozenset({"checkpoint"})
    for curve in found:
        for at in thin(len(curve.loss), MOST_ROWS):
            table.rows.append(
                [
                    curve.checkpoint.label,
                    f"{at + 1:,}",
                    f"{curve.tokens[at]:,.0f}",
                    f"{curve.total_tokens[at]:,.0f}",
                    decimal(curve.loss[at], 4),
                    decimal(curve.smoothed[at], 4),
                    str(curve.seeds),
                ]
            )
    return table
