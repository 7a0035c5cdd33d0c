"""TensorBoard and W&B get the rows of metrics.jsonl; what happens where one is not installed or fails half-way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sidewinder.errors import ConfigError
from sidewinder.train.signals import TrainingStopped
from sidewinder.train.writers import Writers, open_writers

Make = Callable[..., Any]
ABOUT = {"study": "tiny", "title": "hybrid-s1 pretrain-32", "identity": "ab" * 32}


def attempt(writers: Writers, first: int, last: int, mark: float, back: bool = False) -> None:
    with writers:
        writers.write("resume" if first else "start", from_step=first, identity="a", code="c")
        if back:
            writers.write("step", step=first + 1, loss=99.0)
            writers.write("rollback", step=first + 2, from_step=first, message="back")
        for step in range(first + 1, last + 1):
            writers.write("step", step=step, loss=mark / step, tokens=step * 128, note="no number")
        writers.write("warning", step=last, message="loss spike")


@pytest.fixture
def shown_in() -> Callable[[Path], Any]:
    """`shown_in(folder)`: what TensorBoard's own reader finds."""
    if find_spec("tensorboard") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("tensorboard is not installed: pip install -r requirements/test.txt")
        pytest.skip("needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return lambda folder: EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()


def test_tensorboard_shows_what_counts(tmp_path: Path, shown_in: Make) -> None:
    """The steps that a resumed attempt repeats replace the earlier ones."""
    told: list[str] = []
    for first, last, mark in ((0, 6, 1.0), (4, 8, 2.0)):
        attempt(open_writers(["tensorboard"], tmp_path, **ABOUT, warn=told.append), first, last, mark, back=first > 0)
    shown = shown_in(tmp_path)
    assert sorted(shown.Tags()["scalars"]) == ["loss", "tokens"]
    losses = [(row.step, row.value) for row in shown.Scalars("loss")]
    assert losses == [(step, pytest.approx((1.0 if step <= 4 else 2.0) / step)) for step in range(1, 9)]
    assert sorted(shown.Tags()["tensors"]) == ["rollback/text_summary", "warning/text_summary"]
    assert told == []


def test_tensorboard_shows_a_run_that_began_with_a_warning(
    tmp_path: Path,
    make_graph: Make,
    make_trainer: Make,
    stage_of: Make,
    shown_in: Make,
    capsys: pytest.CaptureFixture,
) -> None:
    """The newest save is damaged: that is told before training goes on, and every step is shown all the same."""
    graph = make_graph(writers=["tensorboard"])
    stage, run = stage_of(graph, "mamba2"), tmp_path / "run"
    with pytest.raises(TrainingStopped):
        make_trainer(graph, stage, run, stop_at=7).run()
    broken = run / "state/step-00000007/__0_0.distcp"
    broken.write_bytes(b"x" + broken.read_bytes()[1:])
    make_trainer(graph, stage, run).run()
    assert "gets no more metrics" not in capsys.readouterr().err
    shown = shown_in(run)
    assert [row.step for row in shown.Scalars("loss")] == list(range(1, 13))
    assert len(shown.Tensors("warning/text_summary")) == 1


@pytest.mark.parametrize("names", [["wandb"], ["tensorboard", "wandb"]])
def test_packages_that_are_not_installed_are_all_named(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)  # What Python itself takes for: cannot be imported.
    with pytest.raises(ConfigError, match=rf"not installed: {', '.join(names)}\n.*pip install {' '.join(names)},"):
        open_writers(names, tmp_path, **ABOUT, warn=print)


def test_folder_that_wandb_left_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="not installed: wandb"):
        open_writers(["wandb"], tmp_path, **ABOUT, warn=print)


class Breaking:
    """A writer whose service goes away at a step."""

    def __init__(self, at_step: int) -> None:
        self.at_step, self.steps, self.closed = at_step, [], 0

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        if step == self.at_step:
            raise ConnectionError("the service is gone")
        self.steps.append((step, dict(numbers)))

    def event(self, event: str, fields: Mapping[str, Any]) -> None: ...

    def close(self) -> None:
        self.closed += 1


def test_writer_that_fails_is_dropped_and_the_others_go_on() -> None:
    broken, whole, told = Breaking(3), Breaking(-1), []
    attempt(Writers({"broken": broken, "whole": whole}, told.append), 0, 5, 1.0)
    assert told == ["broken gets no more metrics: ConnectionError: the service is gone"]
    assert (len(broken.steps), broken.closed) == (2, 0)
    assert (len(whole.steps), whole.closed) == (5, 1)
    assert whole.steps[1] == (2, {"loss": 0.5, "tokens": 256})


def test_no_writers_write_nothing(tmp_path: Path) -> None:
    attempt(open_writers([], tmp_path, **ABOUT, warn=print), 0, 2, 1.0)
    assert list(tmp_path.iterdir()) == []
