"""Scales, ticks and label places of the figures."""

from __future__ import annotations

import datetime
import math
import random
from itertools import pairwise

import pytest

from sidewinder.report.figures.common import smooth, thin
from sidewinder.report.figures.cost import clock, time_ticks
from sidewinder.report.figures.lineage import _reduced
from sidewinder.report.svg import Scale, round_ticks, spread, tag
from sidewinder.report.text import NBSP, decimal, names, power, seconds, short, size, tick


def test_scales() -> None:
    assert Scale(0, 10, 100, 200)(2.5) == 125
    log = Scale(64, 1024, 0, 400, log=True)
    assert [log(value) for value in (64, 128, 256, 1024)] == [0, 100, 200, 400]
    assert Scale(3, 3, 0, 10)(3) == 5  # One value is drawn in the middle.


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (2.37, 4.6, 6, [2.5, 3, 3.5, 4, 4.5]),
        (0, 999_424, 10, [100_000 * place for place in range(10)]),
        (5, 5, 4, [5]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, ticks: list[float]) -> None:
    assert round_ticks(low, high, most) == ticks


def test_labels_are_moved_apart_in_order() -> None:
    random.seed(1)
    for _ in range(50):
        places = [random.uniform(0, 100) for _ in range(5)]
        moved = spread(places, 15, 0, 100)
        order = sorted(range(5), key=lambda at: places[at])
        gaps = [moved[after] - moved[before] for before, after in pairwise(order)]
        assert min(gaps) >= 14.9
        assert min(moved) >= -0.1
        assert max(moved) <= 100.1
    assert spread([10, 50], 15, 0, 100) == [10, 50]


def test_attributes_and_text_are_escaped() -> None:
    assert tag("text", "a < b", class_="x", data_tip='"q"', x=1.0, y=None) == (
        '<text class="x" data-tip="&#34;q&#34;" x="1">a &lt; b</text>'
    )


def test_smoothing_keeps_constants_and_the_length() -> None:
    assert smooth([2.0] * 9, 2.0) == pytest.approx([2.0] * 9)
    peak = smooth([0.0] * 10 + [1.0] + [0.0] * 10, 1.5)
    assert math.isclose(sum(peak), 1.0, rel_tol=1e-9)
    assert max(peak) == peak[10]
    assert thin(5, 10) == [0, 1, 2, 3, 4]
    assert thin(1000, 3) == [0, 500, 999]


def test_long_pauses_are_cut_out_of_the_clock() -> None:
    start = datetime.datetime(2026, 1, 1)

    def job(first: float, last: float) -> dict[str, datetime.datetime]:
        moments = (start + datetime.timedelta(seconds=value) for value in (first, last))
        return dict(zip(("started_at", "ended_at"), moments, strict=True))

    jobs = [job(0, 60), job(30, 90), job(91, 100), job(5000, 5100)]
    found = clock(jobs)
    assert found.total == 200
    assert found.breaks == [100]
    zero = start.replace(tzinfo=datetime.UTC).timestamp()
    assert [found(zero + moment) for moment in (0, 95, 3000, 5000, 5050)] == [0, 95, 100, 100, 150]
    assert time_ticks(470, 10) == [60.0 * place for place in range(8)]


def test_transitive_reduction() -> None:
    edges = {("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("a", "d"), ("x", "d")}
    assert _reduced(edges) == [("a", "b"), ("b", "c"), ("c", "d"), ("x", "d")]


def test_numbers_as_people_read_them() -> None:
    assert [short(value) for value in (8192, 31_000, 1_048_576, 2.5e12, None, 0.5)] == [
        "8,192",
        f"31.0{NBSP}k",
        f"1.05{NBSP}M",
        f"2.50{NBSP}T",
        "–",
        "0.5",
    ]
    assert [tick(value) for value in (0, 50_000, 1e6, 2.5e12)] == ["0", f"50{NBSP}k", f"1{NBSP}M", f"2.5{NBSP}T"]
    assert [size(value) for value in (12, 2048, 412 * 2**20, 1.1 * 2**30)] == [
        f"12{NBSP}B",
        f"2.0{NBSP}KiB",
        f"412{NBSP}MiB",
        f"1.10{NBSP}GiB",
    ]
    assert power(7.7e-6) == f"7.7{NBSP}×{NBSP}10⁻⁶"
    assert decimal(-0.5, 2) == "−0.50"
    assert [seconds(value) for value in (3.21, 59.99, 552)] == [f"3.2{NBSP}s", "0:59", "9:12"]
    assert names(["a", "b", "c"]) == "a, b and c"
