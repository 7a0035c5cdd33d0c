"""The learning rate against its closed form, at steps worked out by hand."""

from __future__ import annotations

import math

import pytest

from sidewinder.config import Training
from sidewinder.train.schedule import learning_rate


def training(**changes: object) -> Training:
    values = {
        "context_tokens": 32,
        "batch_sequences": 4,
        "budget_tokens": 32 * 4 * 100,
        "learning_rate": 1e-3,
        "minimum_learning_rate": 1e-4,
        "warmup_sequences": 40,
    }
    return Training.model_validate(values | changes)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, 1e-4),  # 4 of 40 sequences
        (5, 5e-4),
        (10, 1e-3),  # warm-up ends: 40 of 40
        (40, 1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi / 3))),  # (160 - 40) / (400 - 40)
        (55, 5.5e-4),  # half of the cosine
        (100, 1e-4),  # the last step has the minimum
    ],
)
def test_closed_form(step: int, expected: float) -> None:
    assert learning_rate(training(), step) == pytest.approx(expected, rel=1e-12)


def test_warmup_need_not_end_on_a_step() -> None:
    uneven = training(warmup_sequences=6)
    assert learning_rate(uneven, 1) == pytest.approx(1e-3 * 4 / 6, rel=1e-12)
    assert learning_rate(uneven, 2) == pytest.approx(1e-4 + 4.5e-4 * (1 + math.cos(math.pi * 2 / 394)), rel=1e-12)


def test_no_warmup_and_nothing_but_warmup() -> None:
    assert learning_rate(training(warmup_sequences=0), 1) == pytest.approx(
        1e-4 + 4.5e-4 * (1 + math.cos(math.pi / 100)), rel=1e-12
    )
    whole = training(warmup_sequences=400)
    assert [learning_rate(whole, step) for step in (50, 100)] == pytest.approx([5e-4, 1e-3], rel=1e-12)


def test_batch_size_keeps_the_shape() -> None:
    """Counted in sequences: twice the batch reaches the same rate in half the steps."""
    twice = training(batch_sequences=8)
    for step in range(1, 51):
        assert learning_rate(twice, step) == pytest.approx(learning_rate(training(), 2 * step), rel=1e-12)
