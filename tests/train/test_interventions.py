"""The batch ramp in the loop; divergence that neither a replay nor another attempt mends; a loss that jumps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidewinder.errors import TrainingDiverged
from sidewinder.train.loop import Trainer
from sidewinder.train.metrics import read_metrics
from sidewinder.train.signals import TrainingStopped

Make = Callable[..., Any]
Hook = Callable[[Trainer, int], None]


def before_step(trainer: Trainer, hook: Hook) -> None:
    """Calls `hook(trainer, step)` when the data of a step is asked for (four sequences a step)."""
    read = trainer.batches.sequences

    def sequences(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        hook(trainer, first // 4 + 1)
        return read(first, count)

    trainer.batches.sequences = sequences  # type: ignore[method-assign]


def told(folder: Path, *names: str) -> list[tuple[str, int]]:
    events = read_metrics(folder / "metrics.jsonl").events
    return [(event["event"], event.get("step", event.get("from_step"))) for event in events if event["event"] in names]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_divergence_ends_after_one_replay_and_stays_ended(
    tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make
) -> None:
    """An absurd rate: step 1 ruins the weights. One replay shows that; running it again does not renew the budget."""
    graph = make_graph(learning_rate=1e20, warmup_sequences=0, save_every_tokens=1)
    stage, run = stage_of(graph, "transformer"), tmp_path / "run"
    for _ in range(2):
        with pytest.raises(TrainingDiverged, match="same step"):
            make_trainer(graph, stage, run).run()
    told_first = [("start", 0), ("skip", 2), ("skip", 3), ("rollback", 4), ("skip", 2), ("skip", 3)]
    told_again = [("stop", 4), ("resume", 1), ("skip", 2), ("skip", 3), ("stop", 4)]
    assert told(run, "start", "resume", "skip", "rollback", "stop") == told_first + told_again
    assert sorted(path.name for path in (run / "state").iterdir()) == ["step-00000001"]


def spoil_batches(trainer: Trainer, *bad: int) -> Trainer:
    """The losses of these steps are not numbers, whenever they are made."""
    loss = trainer.model.loss

    def choose(trainer: Trainer, step: int) -> None:
        trainer.model.loss = (lambda *given: loss(*given) * torch.nan) if step in bad else loss  # type: ignore

    before_step(trainer, choose)
    return trainer


def test_used_up_budget_names_what_to_raise_and_then_the_run_goes_on(
    tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make
) -> None:
    """Two skips are allowed, three batches are bad: starting it again changes nothing, allowing a third skip does."""
    run, limits = tmp_path / "run", {"skips_in_all": 2, "rollbacks": 1}

    def trainer(**limits: int) -> Trainer:
        graph = make_graph(non_finite=limits)
        return spoil_batches(make_trainer(graph, stage_of(graph, "mamba2"), run), 3, 5, 9)

    for _ in range(2):
        with pytest.raises(TrainingDiverged) as caught:
            trainer(**limits).run()
        assert "remedy: raise what is used up of training.non_finite, skips_in_all (now 2), rollbacks" in str(
            caught.value
        )
        assert "replays from the save of step 8 met it at the same step; 1 rollbacks were made" in str(caught.value)
    trainer(**limits | {"skips_in_all": 3}).run()
    assert told(run, "skip", "rollback") == [("skip", 3), ("skip", 5), ("rollback", 9), ("skip", 9)]
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl").steps] == [1, 2, 4, 6, 7, 8, 10, 11, 12]


def test_save_that_falls_on_a_skipped_step_is_made_after_the_next(
    tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make
) -> None:
    """The last step is replayed from both saves before it is skipped, so that step 8 is saved a second time."""
    graph = make_graph(save_every_tokens=4 * 4 * 32)
    stage = stage_of(graph, "mamba2")
    spoil_batches(make_trainer(graph, stage, tmp_path / "run"), 4, 12).run()
    assert told(tmp_path / "run", "save") == [("save", 5), ("save", 8), ("save", 8), ("save", 12)]


def test_signal_at_a_skipped_step_saves(tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make) -> None:
    """The message names the save, and the run goes on from it to the bits of one that was not stopped."""
    graph = make_graph(save_every_tokens=10**6)
    stage = stage_of(graph, "mamba2")
    whole = spoil_batches(make_trainer(graph, stage, tmp_path / "whole"), 7)
    whole.run()
    halves = [make_trainer(graph, stage, tmp_path / "halves", stop_at=stop_at) for stop_at in (7, None)]
    newest = tmp_path / "halves/state/step-00000007"
    with pytest.raises(TrainingStopped, match=f"SIGTERM at step 7 of 12; the newest save is {newest}\n"):
        spoil_batches(halves[0], 7).run()
    spoil_batches(halves[1], 7).run()
    assert told(tmp_path / "halves", "resume") == [("resume", 7)]
    mine, theirs = weights(halves[1]), weights(whole)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_batch_ramp_reads_the_same_sequences_and_resumes_to_the_bit(
    tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make
) -> None:
    ramp = {"start_sequences": 1, "increment_sequences": 1, "over_sequences": 12}
    graph = make_graph(batch_ramp=ramp)
    stage = stage_of(graph, "hybrid")
    whole = make_trainer(graph, stage, tmp_path / "whole")
    read: list[tuple[int, int]] = []
    sequences = whole.batches.sequences
    whole.batches.sequences = lambda first, count: read.append((first, count)) or sequences(first, count)
    whole.run()
    assert [count for _, count in read] == [1] * 4 + [2] * 2 + [3] * 2 + [4] * 8
    assert [first for first, _ in read] == list(np.cumsum([0, *(count for _, count in read)])[:-1])
    assert [row["tokens"] for row in read_metrics(tmp_path / "whole/metrics.jsonl").steps][-1] == stage.training.tokens
    halves = make_trainer(graph, stage, tmp_path / "halves")
    halves.batches.at_sequence = 11
    with pytest.raises(TrainingStopped):
        halves.run()
    resumed = make_trainer(graph, stage, tmp_path / "halves")
    resumed.run()
    mine, theirs = weights(resumed), weights(whole)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_jump_of_the_loss_is_told_with_its_place(
    tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make, capsys: pytest.CaptureFixture
) -> None:
    graph = make_graph(budget_tokens=60 * 4 * 32, learning_rate=1e-3)
    trainer = make_trainer(graph, stage_of(graph, "transformer"), tmp_path / "run")
    loss = trainer.model.loss

    def jump(trainer: Trainer, step: int) -> None:
        trainer.model.loss = (lambda *given: loss(*given) + 9) if step == 50 else loss

    before_step(trainer, jump)
    trainer.run()
    warnings = [e["message"] for e in read_metrics(tmp_path / "run/metrics.jsonl").events if e["event"] == "warning"]
    assert len(warnings) == 1
    assert "loss of step 50" in warnings[0]
    assert 'data position {"text": 196}' in warnings[0]
    assert f"warning: {warnings[0]}" in capsys.readouterr().err
