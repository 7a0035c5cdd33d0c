"""Line charts and bar charts: what the figures of the report have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from sidewinder.report.svg import CHARACTER, Panel, Scale, area, mark, path, picture, spread, tag, text

Point = tuple[float, float]
DASHES = 5  # Dash patterns in style.css; longer ladders repeat the last.


@dataclass
class Series:
    """One line. `model` picks colour and sign, `dash` the line style (0 is solid)."""

    label: str
    model: int
    dash: int
    points: list[Point]
    attributes: dict[str, str] = field(default_factory=dict)
    raw: list[Point] = field(default_factory=list)
    band: list[tuple[float, float, float]] = field(default_factory=list)  # x, lower, upper
    intervals: list[tuple[float, float] | None] = field(default_factory=list)
    tips: dict[int, str] = field(default_factory=dict)  # Text shown over a point, by its place.
    marked: bool = False
    ring: float | None = None  # x whose point is ringed
    end_label: str = ""

    @property
    def class_(self) -> str:
        """CSS classes of the model's colour and of the line style."""
        return f"m{self.model % 8} d{min(self.dash, DASHES - 1)}"


@dataclass
class Axes:
    """What the axes of a line chart show."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_title: str = ""
    y_title: str = ""
    x_log: bool = False
    reference: tuple[float, str] | None = None  # A level with its name, such as that of guessing.


def line_chart(name: str, label: str, axes: Axes, series: Sequence[Series], width: int, height: int) -> Markup:
    """A line chart of `width` × `height`; `name` is unique on the page, `label` describes it to a screen reader."""
    room = max((len(line.end_label) * 1.16 * CHARACTER + 16 for line in series if line.end_label), default=14)
    left = 18 + CHARACTER * max((len(tick) for _, tick in axes.y_ticks), default=1)
    panel = Panel(
        Scale(axes.x_low, axes.x_high, left, width - room, axes.x_log),
        Scale(axes.y_low, axes.y_high, height - 44, 30 if axes.y_title else 12),
    )
    panel.grid_y(axes.y_ticks)
    panel.grid_x(axes.x_ticks)
    panel.base()
    if axes.reference:
        level, name = axes.reference
        y = panel.y(level)
        panel.add(tag("line", x1=panel.left, x2=panel.right, y1=y, y2=y, class_="reference"))
        panel.add(text(panel.right - 2, y - 5, name, "tick end"))
    panel.add(text(0, 12, axes.y_title, "title"), text(panel.right, panel.bottom + 36, axes.x_title, "title end"))
    frame = tag(
        "rect", x=panel.left, y=panel.top - 4, width=panel.right - panel.left, height=panel.bottom - panel.top + 4
    )
    panel.add(tag("clipPath", frame, id=f"clip-{name}"))
    for line in series:
        _draw(panel, line, f"clip-{name}")
    _end_labels(panel, series)
    return picture(width, height, panel.items, label)


def _draw(panel: Panel, line: Series, clip: str) -> None:
    def place(points: Sequence[Point]) -> list[Point]:
        return [(panel.x(x), panel.y(y)) for x, y in points]

    inside: list[Markup] = []
    if line.band:
        inside.append(
            area(place([(x, low) for x, low, _ in line.band]), place([(x, up) for x, _, up in line.band]), "band")
        )
    if line.raw:
        inside.append(path(place(line.raw), "raw"))
    inside.append(path(place(line.points), "line"))
    shown = [tag("g", *inside, clip_path=f"url(#{clip})")]
    for at, (x, y) in enumerate(place(line.points)):
        if not panel.top - 5 <= y <= panel.bottom + 1:
            continue
        interval = line.intervals[at] if at < len(line.intervals) else None
        if interval:
            shown.append(_whisker(panel, x, *interval))
        if line.ring is not None and line.points[at][0] == line.ring:
            shown.append(tag("circle", cx=x, cy=y, r=7.0, class_="ring"))
        if line.marked:
            shown.append(mark(line.model, x, y, 3.6, "dot"))
        if at in line.tips:
            shown.append(tag("circle", cx=x, cy=y, r=9.0, class_="hit", data_tip=line.tips[at]))
    panel.add(tag("g", *shown, class_=line.class_, **line.attributes))


def _whisker(panel: Panel, x: float, low: float, high: float) -> Markup:
    top, bottom = max(panel.y(high), panel.top), min(panel.y(low), panel.bottom)
    return tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="whisker")


def _end_labels(panel: Panel, series: Sequence[Series]) -> None:
    """Names at the ends of lines, moved apart where lines end close together."""
    labelled = [line for line in series if line.end_label and line.points]
    ends = [panel.y(line.points[-1][1]) for line in labelled]
    for line, own, at in zip(labelled, ends, spread(ends, 15, panel.top, panel.bottom), strict=True):
        x = panel.x(line.points[-1][0])
        leader = tag("line", x1=x + 2, x2=panel.right + 9, y1=own, y2=at, class_="leader")
        name = text(panel.right + 12, at + 4, line.end_label, "label")
        panel.add(tag("g", leader, name, class_=line.class_, **line.attributes))


@dataclass
class Bar:
    """One bar with its value written at its end."""

    label: str
    value: float
    shown: str
    model: int
    dash: int = 0
    error: float | None = None
    attributes: dict[str, str] = field(default_factory=dict)


def bar_chart(label: str, bars: Sequence[Bar], width: int, row: int = 24) -> Markup:
    """Horizontal bars from zero; extensions are drawn lighter."""
    left = 14 + CHARACTER * max((len(bar.label) for bar in bars), default=0)
    room = 10 + CHARACTER * max((len(bar.shown) for bar in bars), default=0)
    scale = Scale(0, max((bar.value for bar in bars), default=1) or 1, left, width - room)
    items: list[Markup] = []
    for place, bar in enumerate(bars):
        y = 4 + place * row
        end = scale(bar.value)
        parts = [
            text(left - 8, y + row / 2 + 2, bar.label, "tick end"),
            tag("rect", x=left, y=y + 3.0, width=max(end - left, 1.0), height=row - 8.0, rx=2, class_="bar"),
            text(end + 6, y + row / 2 + 2, bar.shown, "value"),
        ]
        if bar.error:
            start, stop = scale(max(bar.value - bar.error, 0)), scale(bar.value + bar.error)
            parts.append(tag("line", x1=start, x2=stop, y1=y + row / 2 - 1, y2=y + row / 2 - 1, class_="whisker dark"))
        style = f"m{bar.model % 8} d{min(bar.dash, DASHES - 1)}"
        items.append(tag("g", *parts, class_=style, **bar.attributes))
    items.append(tag("line", x1=left, x2=left, y1=2, y2=4.0 + row * len(bars), class_="axis"))
    return picture(width, 8 + row * len(bars), items, label)
