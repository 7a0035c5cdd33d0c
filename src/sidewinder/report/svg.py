"""Small vocabulary for hand-made SVG figures: elements, scales, axes, labels that do not overlap.

Colours, dashes and fonts are CSS classes (templates/style.css), so that a figure follows light and dark mode and a
model has the same colour everywhere. All functions are pure: equal data gives equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

CHARACTER = 6.4  # Mean width of one, in pixels of the view box.


def fixed(value: float) -> str:
    """A coordinate with at most two decimals."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element; `class_` is class, `_` in other names becomes `-`, None leaves an attribute out."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is not None:
            shown = fixed(value) if isinstance(value, float) else str(value)
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    body = "".join(str(escape(child)) for child in children)
    return Markup("".join(parts) + (f">{body}</{name}>" if body else "/>"))


def text(x: float, y: float, words: str, class_: str = "", **attributes: object) -> Markup:
    """Words at a point, their baseline's start unless the class aligns them otherwise."""
    return tag("text", words, x=float(x), y=float(y), class_=class_ or None, **attributes)


def path(points: Iterable[tuple[float, float]], class_: str, **attributes: object) -> Markup:
    """A line through points."""
    steps = " L".join(f"{fixed(x)} {fixed(y)}" for x, y in points)
    return tag("path", d=f"M{steps}", class_=class_, **attributes) if steps else Markup("")


def area(lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A filled band between two lines."""
    steps = " L".join(f"{fixed(x)} {fixed(y)}" for x, y in [*lower, *reversed(upper)])
    return tag("path", d=f"M{steps}Z", class_=class_)


@dataclass(frozen=True)
class Scale:
    """Data from `low` to `high` onto pixels from `start` to `end`; `log` spaces powers evenly."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._place(self.low), self._place(self.high)
        share = (self._place(value) - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def _place(self, value: float) -> float:
        return math.log2(max(value, 1e-300)) if self.log else value

    def ticks(self, most: int = 6) -> list[float]:
        """Round values between the ends: steps of 1, 2, 2.5 or 5 times a power of ten."""
        return [float(value) for value in round_ticks(self.low, self.high, most)]


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Up to about `most` round values from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


@dataclass
class Panel:
    """One set of axes; `items` collects elements in drawing order."""

    x: Scale
    y: Scale
    items: list[Markup] = field(default_factory=list)

    @property
    def left(self) -> float:
        return min(self.x.start, self.x.end)

    @property
    def right(self) -> float:
        return max(self.x.start, self.x.end)

    @property
    def top(self) -> float:
        return min(self.y.start, self.y.end)

    @property
    def bottom(self) -> float:
        return max(self.y.start, self.y.end)

    def add(self, *items: Markup) -> None:
        """Draws over what is there."""
        self.items.extend(items)

    def grid_y(self, ticks: Iterable[tuple[float, str]]) -> None:
        """Horizontal lines with labels at the left."""
        for value, label in ticks:
            y = self.y(value)
            self.add(tag("line", x1=self.left, x2=self.right, y1=y, y2=y, class_="rule"))
            self.add(text(self.left - 8, y + 4, label, "tick end"))

    def grid_x(self, ticks: Iterable[tuple[float, str]], *, lines: bool = False) -> None:
        """Labels below, with short marks or whole lines."""
        for value, label in ticks:
            x = self.x(value)
            start = self.top if lines else self.bottom
            self.add(tag("line", x1=x, x2=x, y1=start, y2=self.bottom + (0 if lines else 4), class_="rule"))
            self.add(text(x, self.bottom + 17, label, "tick mid"))

    def base(self) -> None:
        """The horizontal axis."""
        self.add(
            tag("line", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom, class_="axis"),
        )


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves label places apart to at least `gap`, in their order, near their own place and, if they fit, in range."""
    order = sorted(range(len(places)), key=lambda at: (places[at], at))
    moved = [places[at] for at in order]
    for _ in range(100):
        for at in range(len(moved) - 1):
            lack = max(0.0, gap - (moved[at + 1] - moved[at]))
            moved[at] -= lack / 2
            moved[at + 1] += lack / 2
    floor, ceiling = low, high
    for at in range(len(moved)):
        moved[at] = floor = max(moved[at], floor)
        floor += gap
    for at in reversed(range(len(moved))):
        moved[at] = ceiling = min(moved[at], ceiling)
        ceiling -= gap
    result = [0.0] * len(places)
    for at, place in zip(order, moved, strict=True):
        result[at] = place
    return result


MARKS = ("circle", "square", "triangle", "diamond")


def mark(shape: int, x: float, y: float, radius: float, class_: str, **attributes: object) -> Markup:
    """The sign of a model: it tells models apart without colour."""
    kind = MARKS[shape % len(MARKS)]
    if kind == "circle":
        return tag("circle", cx=float(x), cy=float(y), r=float(radius), class_=class_, **attributes)
    if kind == "square":
        side = radius * 0.9
        return _polygon(
            [(x - side, y - side), (x + side, y - side), (x + side, y + side), (x - side, y + side)], class_, attributes
        )
    if kind == "triangle":
        tall = radius * 1.2
        return _polygon([(x, y - tall), (x + tall, y + tall * 0.8), (x - tall, y + tall * 0.8)], class_, attributes)
    wide = radius * 1.3
    return _polygon([(x, y - wide), (x + wide, y), (x, y + wide), (x - wide, y)], class_, attributes)


def _polygon(points: list[tuple[float, float]], class_: str, attributes: dict[str, object]) -> Markup:
    return tag("polygon", points=" ".join(f"{fixed(x)},{fixed(y)}" for x, y in points), class_=class_, **attributes)


def picture(width: float, height: float, items: Iterable[Markup], label: str, class_: str = "") -> Markup:
    """The whole figure; it scales with its place on the page."""
    return tag(
        "svg",
        Markup("").join(items),
        viewBox=f"0 0 {fixed(width)} {fixed(height)}",
        role="img",
        aria_label=label,
        class_=f"figure {class_}".strip(),
    )
