"""Weights that a fault of the machine spoils: they are never saved or published, and the run ends as if nothing was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidewinder.errors import CheckpointError, TrainingDiverged
from sidewinder.train import stage as stages
from sidewinder.train.loop import Trainer
from sidewinder.train.metrics import Metrics, read_metrics
from sidewinder.train.pretrain import pretrain
from sidewinder.train.signals import TrainingStopped

Make = Callable[..., Any]
NAN, HUGE = float("nan"), 3e38


def spoil(trainer: Trainer, at: int, value: float, times: int = 1, what: str = "weights") -> Trainer:
    """Puts a value into the numbers of one parameter right after the update of a step, the first times it is made."""
    update, left = trainer.engine.update, iter([True] * times)

    def spoiling(step: int, norm: float) -> None:
        update(step, norm)
        if step == at and next(left, False):
            parameter = trainer.engine.parameters[3]
            place = parameter.detach() if what == "weights" else trainer.engine.optimizer.state[parameter][what]
            place.fill_(value)

    trainer.engine.update = spoiling  # type: ignore[method-assign]
    return trainer


def metrics(folder: Path) -> Metrics:
    return read_metrics(folder / "metrics.jsonl")


def returns(folder: Path) -> list[tuple[int, int]]:
    return [(event["step"], event["from_step"]) for event in metrics(folder).events if event["event"] == "rollback"]


def assert_as_if_nothing_was(trainer: Trainer, whole: Trainer) -> None:
    mine, theirs = trainer.engine.state(), whole.engine.state()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert [row["loss"] for row in metrics(trainer.folder).steps] == [r["loss"] for r in metrics(whole.folder).steps]


@pytest.fixture
def made(tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make) -> Make:
    """`made(name, **training)`: a trainer of twelve steps that saves every second one."""

    def make(name: str, **training: Any) -> Trainer:
        graph = make_graph(**training)
        return make_trainer(graph, stage_of(graph, "mamba2"), tmp_path / name)

    return make


@pytest.mark.parametrize("what", ["weights", "exp_avg_sq"])
@pytest.mark.parametrize(("step", "back_to"), [(6, 4), (12, 10)], ids=["before a save", "at the end"])
def test_numbers_that_are_not_finite_are_not_saved(what: str, step: int, back_to: int, made: Make) -> None:
    whole, trainer = made("whole"), spoil(made("run"), step, NAN, what=what)
    whole.run()
    trainer.run()
    assert returns(trainer.folder) == [(step, back_to)]
    assert_as_if_nothing_was(trainer, whole)


def test_save_that_is_spoilt_though_finite_gives_way_to_the_one_before(made: Make, capsys: Any) -> None:
    """The weights of save 6 are huge: it is tried once; the replay fails at the same step; save 4 mends the run."""
    whole, trainer = made("whole"), spoil(made("run"), 6, HUGE)
    whole.run()
    trainer.run()
    assert returns(trainer.folder) == [(9, 6), (9, 4)]
    assert "step-00000006 led to the same failure again; set aside as damaged-step-00000006" in capsys.readouterr().err
    assert_as_if_nothing_was(trainer, whole)


def test_fault_that_shows_at_the_last_step_is_not_published(made: Make) -> None:
    """The weights are huge after step 11: step 12 fails, and no step comes after it that would fail as well."""
    whole, trainer = made("whole"), spoil(made("run"), 11, HUGE)
    whole.run()
    trainer.run()
    assert returns(trainer.folder) == [(12, 10)]
    assert_as_if_nothing_was(trainer, whole)


def test_last_batch_that_is_too_much_is_skipped_after_replays(made: Make) -> None:
    trainer = made("run")
    gradients = trainer.engine.gradients
    trainer.engine.gradients = lambda step, beat: gradients(step, beat) * (NAN if step == 12 else 1.0)
    trainer.run()
    assert returns(trainer.folder) == [(12, 10), (12, 8)]
    assert [event["step"] for event in metrics(trainer.folder).events if event["event"] == "skip"] == [12]
    assert len(metrics(trainer.folder).steps) == 11
    assert metrics(trainer.folder).events[-1]["event"] == "end"


def test_fault_that_returns_stops_and_names_what_was_tried(made: Make) -> None:
    trainer = spoil(made("run"), 6, NAN, times=99)
    with pytest.raises(TrainingDiverged) as caught:
        trainer.run()
    assert returns(trainer.folder) == [(6, 4), (6, 2)]
    message = str(caught.value)
    assert "weights or optimizer state are not finite after this step; replays from the save of step 4 and 2" in message
    assert f"the newest save is {trainer.folder}/state/step-00000004" in message
    assert "were not changed" not in message
    made("run").run()
    assert returns(trainer.folder) == [(6, 4), (6, 2)]


@pytest.mark.parametrize("every", [2, 10**6], ids=["older save", "no other save"])
def test_spoilt_save_of_an_earlier_version_is_not_used(
    every: int, made: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Read back before anything else is done: one NaN in it sets it aside."""
    whole, careless = made("whole"), spoil(made("run", save_every_tokens=every * 4 * 32), 6, NAN)
    whole.run()
    careless.batches.at_sequence = 5 * 4
    monkeypatch.setattr(careless.keeper, "_finite", lambda: True)
    with pytest.raises(TrainingStopped):
        careless.run()
    if every > 2:
        with pytest.raises(CheckpointError, match=r"no save that is whole and finite[\s\S]*starts from the first step"):
            made("run").run()
    trainer = made("run")
    trainer.run()
    assert "step-00000006 holds numbers that are not finite; set aside as damaged" in capsys.readouterr().err
    assert metrics(trainer.folder).attempts[-1]["from_step"] == (4 if every == 2 else 0)
    assert_as_if_nothing_was(trainer, whole)


def test_signal_does_not_save_what_is_spoilt(made: Make) -> None:
    trainer = spoil(made("run"), 3, NAN)
    trainer.batches.at_sequence = 2 * 4
    with pytest.raises(
        TrainingStopped, match=r"SIGTERM at step 3 of 12; weights.* not saved; the newest save is .*step-00000002"
    ):
        trainer.run()
    trainer = spoil(made("other"), 1, NAN)
    trainer.batches.at_sequence = 0
    with pytest.raises(TrainingStopped, match=r"there is no save yet[\s\S]*starts from the first step"):
        trainer.run()


def test_spoilt_model_is_not_published(make_graph: Make, stage_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = make_graph(non_finite={"rollbacks": 0})
    stage = stage_of(graph, "mamba2")
    monkeypatch.setattr(stages, "Trainer", lambda *given: spoil(Trainer(*given), 12, NAN))
    with pytest.raises(TrainingDiverged, match=r"remedy: raise .*training\.non_finite, rollbacks \(now 0\)"):
        pretrain(graph, stage)
    assert not (stage.folder / "checkpoint").exists()
    assert not stage.record.exists()
    monkeypatch.undo()
    pretrain(graph, stage)
    assert stage.record.exists()
