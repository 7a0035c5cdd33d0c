"""The learning rate against its closed form, at steps worked out by hand; the batch against a step-by-step count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from sidewinder.config import Training
from sidewinder.train.schedule import batch_sequences, learning_rate, sequences_before, tokens_after


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


def before_decay_had_shares(training: Training, step: int) -> float:
    """The rate as it was computed when every run had one batch size and a cosine to the end of its budget."""
    seen = step * training.batch_sequences
    total, warmup = training.steps * training.batch_sequences, training.warmup_sequences
    if seen < warmup or total == warmup:
        return training.learning_rate * seen / warmup
    done = min(1.0, (seen - warmup) / (total - warmup))
    span = training.learning_rate - training.minimum_learning_rate
    return training.minimum_learning_rate + span * 0.5 * (1.0 + math.cos(math.pi * done))


@pytest.mark.parametrize(
    ("batch", "warmup", "steps"), [(4, 40, 100), (3, 7, 113), (7, 0, 59), (5, 55, 11), (1024, 122_071, 9999)]
)
def test_earlier_runs_keep_their_rates_to_the_bit(batch: int, warmup: int, steps: int) -> None:
    plain = training(
        batch_sequences=batch, warmup_sequences=warmup, budget_tokens=32 * batch * steps + 17, learning_rate=3.3e-4
    )
    assert plain.steps == steps
    for step in range(1, steps + 1):
        assert learning_rate(plain, step) == before_decay_had_shares(plain, step)
        assert (batch_sequences(plain, step), sequences_before(plain, step)) == (batch, (step - 1) * batch)


def test_cosine_over_a_share_of_the_budget_then_the_minimum() -> None:
    """Cosine over 95 % of the samples, as the paper's baseline: 380 of 400 sequences, 40 of them warm-up."""
    most = training(decay={"end_share": 0.95})
    assert learning_rate(most, 10) == 1e-3
    half = 1e-4 + 4.5e-4 * (1 + math.cos(math.pi * (208 - 40) / (380 - 40)))
    assert learning_rate(most, 52) == pytest.approx(half, rel=1e-12)
    assert learning_rate(most, 94) > 1e-4
    assert {learning_rate(most, step) for step in range(95, 101)} == {1e-4}


def test_warm_up_stable_decay() -> None:
    stable = training(decay={"shape": "linear", "start_share": 0.8})
    assert [learning_rate(stable, step) for step in (5, 10, 50, 80)] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])
    assert [learning_rate(stable, step) for step in (85, 90, 100)] == pytest.approx([7.75e-4, 5.5e-4, 1e-4])
    for constant in (training(decay={"shape": "constant"}), training(decay={"shape": "constant", "end_share": 0.5})):
        assert [learning_rate(constant, step) for step in (5, 50, 100)] == pytest.approx([5e-4, 1e-3, 1e-3])


def simulated(start: int, increment: int, over: int, full: int) -> Iterator[tuple[int, int]]:
    """(batch, sequences before) of steps 1, 2, …, one after the other: the samples read so far decide the next size."""
    increments, read = (full - start) // increment, 0
    while True:
        size = full if read >= over else start + increment * (read * increments // over)
        yield size, read
        read += size


RAMPS = [  # start, increment, over, full
    (1, 1, 20, 5),
    (2, 2, 97, 10),
    (4, 3, 11, 31),  # Sizes in the middle are jumped over.
    (1, 1, 1, 9),
    (8, 8, 4096, 64),
    (3, 1, 1000, 40),
]


@pytest.mark.parametrize(("start", "increment", "over", "full"), RAMPS)
def test_ramp_is_what_counting_step_by_step_gives(start: int, increment: int, over: int, full: int) -> None:
    ramp = {"start_sequences": start, "increment_sequences": increment, "over_sequences": over}
    steps = list(itertools.islice(simulated(start, increment, over, full), 1500))
    assert full in {size for size, _ in steps}
    largest = training(batch_ramp=ramp, batch_sequences=full, budget_tokens=32 * steps[-1][1], warmup_sequences=0)
    assert [(batch_sequences(largest, step), sequences_before(largest, step)) for step in range(1, 1501)] == steps
    for budget in range(32 * over, 32 * (over + 3 * full), 7):
        paid = sum(before + size <= budget // 32 for size, before in steps)
        short = training(batch_ramp=ramp, batch_sequences=full, budget_tokens=budget, warmup_sequences=0)
        assert short.steps == paid
        assert short.tokens == tokens_after(short, paid) <= budget < tokens_after(short, paid + 1)


def test_ramp_of_the_paper_baseline() -> None:
    """64 to 256 sequences in steps of 64 over 65,324,160: a third with each size, in whole steps."""
    ramp = {"start_sequences": 64, "increment_sequences": 64, "over_sequences": 65_324_160}
    values = {"context_tokens": 4096, "batch_sequences": 256, "budget_tokens": 268_554_688 * 4096}
    paper = training(**values, batch_ramp=ramp, warmup_sequences=122_071, decay={"end_share": 0.95})
    ends = [340_230, 340_230 + 170_115, 340_230 + 170_115 + 113_410]
    assert [batch_sequences(paper, step) for step in ends] == [64, 128, 192]
    assert [batch_sequences(paper, step + 1) for step in ends] == [128, 192, 256]
    assert sequences_before(paper, ends[-1] + 1) == 65_324_160
    assert paper.steps == ends[-1] + (268_554_688 - 65_324_160) // 256
    assert paper.sequences == 65_324_160 + (268_554_688 - 65_324_160) // 256 * 256
    assert learning_rate(paper, 954) == pytest.approx(1e-3 * 954 * 64 / 122_071, rel=1e-12)


def test_rate_follows_the_sequences_of_a_ramp() -> None:
    """40 sequences warm up: 1 + 1 + 2 + 2 … rather than 40 / 4 steps."""
    ramp = {"start_sequences": 1, "increment_sequences": 1, "over_sequences": 60}
    ramped = training(batch_ramp=ramp)
    seen = list(itertools.accumulate(batch_sequences(ramped, step) for step in range(1, ramped.steps + 1)))
    assert (seen[19], seen[29], seen[-1]) == (20, 40, 397)
    assert [learning_rate(ramped, step) for step in (20, 30)] == pytest.approx([5e-4, 1e-3])
    assert learning_rate(ramped, ramped.steps) == 1e-4


def test_far_steps_are_found_without_counting() -> None:
    """A trillion steps of a thousand sizes: a loop over them would not end."""
    ramp = {"start_sequences": 1, "increment_sequences": 1, "over_sequences": 10**13}
    far = training(batch_ramp=ramp, batch_sequences=1000, budget_tokens=32 * 10**15, warmup_sequences=10**9)
    assert far.steps > 10**12
    assert batch_sequences(far, far.steps) == 1000
    assert far.sequences <= 10**15 < far.sequences + 1000
    assert learning_rate(far, far.steps) == 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_ramp": (1, 2, 20)}, r"whole increments of 2 do not lead from start_sequences \(1\) to .* \(4\)"),
        ({"batch_ramp": (4, 2, 20)}, r"whole increments"),
        ({"batch_ramp": (8, 2, 20)}, r"whole increments"),
        ({"batch_ramp": (1, 1, 401)}, r"over_sequences \(401\) exceeds the budget \(\d+ sequences\)"),
        (
            {"batch_ramp": (1, 1, 40), "micro_batch_sequences": 2},
            r"micro_batch_sequences \(2\) must divide batch_ramp.start_sequences \(1\).*increment_sequences \(1\)",
        ),
        ({"budget_tokens": 63, "batch_ramp": (2, 2, 20)}, r"less than one step \(2 x 32 tokens\)"),
        ({"decay": {"end_share": 0.1}}, r"end_share \(0.1 of 400 sequences\) must lie beyond warmup_sequences \(40\)"),
        ({"decay": {"end_share": 0.5, "start_share": 0.5}}, r"start_share \(0.5\) must be less than end_share"),
        ({"warmup_sequences": 401}, r"warmup_sequences \(401\) exceeds the budget"),
    ],
)
def test_impossible_schedules_are_named(changes: dict, message: str) -> None:
    keys = ("start_sequences", "increment_sequences", "over_sequences")
    if "batch_ramp" in changes:
        changes = changes | {"batch_ramp": dict(zip(keys, changes["batch_ramp"], strict=True))}
    with pytest.raises(ValidationError, match=message):
        training(**changes)
