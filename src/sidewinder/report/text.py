"""Numbers as people read them: one place, so that a number looks the same everywhere in the report."""

from __future__ import annotations

import datetime
import math

from sidewinder.progress import duration

NBSP = "\u00a0"  # Keeps a number and its unit on one line.
__all__ = [
    "count",
    "date",
    "decimal",
    "digits",
    "duration",
    "names",
    "percent",
    "power",
    "seconds",
    "short",
    "size",
    "tick",
]


def count(value: float | None) -> str:
    """Whole number with separators: `1,048,576`."""
    return "–" if value is None else f"{round(value):,}"


def short(value: float | None) -> str:
    """Three digits and a unit prefix: `31.0 k`, `1.05 M`, `8,192` as it is."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 10_000:
        return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{_three(value / limit)}{NBSP}{unit}"
    return f"{value:,.0f}"


def tick(value: float) -> str:
    """A round number on an axis: `50 k`, `1 M`, `2.5 T`."""
    number, _, unit = short(value).partition(NBSP)
    return f"{number.rstrip('0').rstrip('.')}{NBSP}{unit}" if unit and "." in number else short(value)


def _three(value: float) -> str:
    """Three significant digits, trailing zeros kept: 31.0, 1.05, 656."""
    places = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{places}f}"


def size(value: float | None) -> str:
    """Bytes in binary units: `412 MiB`."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.{0 if unit == 'B' or value >= 100 else 1}f}{NBSP}{unit}"
        value /= 1024
    return f"{value:.2f}{NBSP}GiB"


def decimal(value: float | None, places: int = 3) -> str:
    """A number with so many decimals and a true minus sign."""
    return "–" if value is None else f"{value:.{places}f}".replace("-", "−")


def percent(value: float | None, places: int = 0) -> str:
    """A share of 1 as `41.2 %`."""
    return "–" if value is None else f"{100 * value:.{places}f}{NBSP}%"


def power(value: float | None) -> str:
    """Small or large numbers in scientific notation: `7.7e-06` → `7.7 × 10⁻⁶`."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}{NBSP}×{NBSP}10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def seconds(value: float | None) -> str:
    """A time span: `3.2 s` under a minute, else `9:12`."""
    if value is None:
        return "–"
    return f"{value:.1f}{NBSP}s" if value < 59.95 else duration(value)


def date(value: datetime.datetime | None) -> str:
    """`3 March 2026, 14:05 UTC`."""
    return "–" if value is None else f"{value.day} {value:%B %Y, %H:%M} UTC"


def digits(value: str | None, length: int = 10) -> str:
    """The first digits of a digest."""
    return value[:length] if value else "–"


def names(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"
