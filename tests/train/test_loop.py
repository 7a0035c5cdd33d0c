"""One step, and what a run leaves when it is stopped, resumed, or meets numbers that are not finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from sidewinder.errors import CheckpointError, ConfigError, TrainingDiverged
from sidewinder.train.loop import Trainer
from sidewinder.train.metrics import read_metrics
from sidewinder.train.optimizer import state_tensors
from sidewinder.train.signals import TrainingStopped

MODELS = ("transformer", "mamba", "mamba2", "hybrid")
Make = Callable[..., Any]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl").steps]


def saved(save: Path) -> dict[str, torch.Tensor]:
    """All tensors of a save, by torch's own converter to one file."""
    dcp_to_torch_save(save, save.with_suffix(".pt"))
    tensors = torch.load(save.with_suffix(".pt"))
    assert all(isinstance(tensor, torch.Tensor) for tensor in flat(tensors).values())
    return flat(tensors)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    found = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def assert_equal_saves(one: Path, two: Path) -> None:
    """Weights and optimizer state of the last save, tensor by tensor, bit by bit."""
    mine, theirs = saved(one), saved(two)
    assert mine.keys() == theirs.keys()
    assert any(name.startswith("exp_avg_sq/") for name in mine)
    assert not [name for name in mine if not torch.equal(mine[name], theirs[name])]


@pytest.mark.parametrize("model", MODELS)
def test_resume_is_bit_equal(
    model: str, tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make, capsys: pytest.CaptureFixture
) -> None:
    """Stopped by SIGTERM at half, and resumed: losses, weights and optimizer of an undisturbed run."""
    graph = make_graph()
    stage = stage_of(graph, model)
    make_trainer(graph, stage, tmp_path / "whole").run()
    with pytest.raises(TrainingStopped, match=r"SIGTERM at step 7 of 12.*\n.*same command again"):
        make_trainer(graph, stage, tmp_path / "halves", stop_at=7).run()
    assert len(losses(tmp_path / "halves")) == 7
    make_trainer(graph, stage, tmp_path / "halves").run()
    assert "goes on from step 7 of 12" in capsys.readouterr().err
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 12
    assert_equal_saves(tmp_path / "halves/state/step-00000012", tmp_path / "whole/state/step-00000012")
    attempts = read_metrics(tmp_path / "halves/metrics.jsonl").attempts
    assert [attempt["from_step"] for attempt in attempts] == [0, 7]


def test_loss_falls(tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make) -> None:
    graph = make_graph()
    make_trainer(graph, stage_of(graph, "hybrid"), tmp_path / "run").run()
    measured = losses(tmp_path / "run")
    assert measured[-1] < measured[0] - 0.3


def test_rows_hold_what_the_catalog_reads(
    tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make, capsys: pytest.CaptureFixture
) -> None:
    graph = make_graph()
    make_trainer(graph, stage_of(graph, "transformer"), tmp_path / "run").run()
    metrics = read_metrics(tmp_path / "run/metrics.jsonl")
    row = metrics.steps[-1]
    assert row.keys() == {
        *("event", "step", "tokens", "loss", "learning_rate", "gradient_norm"),
        *("tokens_per_s", "tokens_per_s_per_device", "step_s", "memory_bytes", "time"),
        *("data_wait_s", "checkpoint_stall_s"),
    }
    assert (row["step"], row["tokens"], row["learning_rate"]) == (12, 12 * 4 * 32, 1e-3)
    assert row["memory_bytes"] > 10_000_000
    assert [event["step"] for event in metrics.events if event["event"] == "save"] == [2, 4, 6, 8, 10, 12]
    assert sorted(path.name for path in (tmp_path / "run/state").iterdir()) == ["step-00000010", "step-00000012"]
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("transformer-s1 pretrain-32  12/12 step 100 % | loss ")
    for part in (" | lr 1.0e-03 | ", "k tok/s | ", " MiB | ETA 0:00"):
        assert part in line


def test_micro_batches_give_the_same_loss(tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make) -> None:
    measured = []
    for size in (1, 2, 4):
        graph = make_graph(tmp_path / str(size), micro_batch_sequences=size)
        make_trainer(graph, stage_of(graph, "hybrid"), tmp_path / f"run{size}").run()
        measured.append(losses(tmp_path / f"run{size}"))
    assert measured[0] == pytest.approx(measured[2], abs=1e-6, rel=0)
    assert measured[1] == pytest.approx(measured[2], abs=1e-6, rel=0)


def test_bfloat16_keeps_float32_weights(tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make) -> None:
    trainers = []
    for precision in ("float32", "bfloat16"):
        graph = make_graph(tmp_path / precision, precision=precision)
        trainer: Trainer = make_trainer(graph, stage_of(graph, "transformer"), tmp_path / f"run-{precision}")
        trainer.run()
        trainers.append(trainer)
    assert {parameter.dtype for parameter in trainers[1].engine.parameters} == {torch.float32}
    full, half = losses(trainers[0].folder), losses(trainers[1].folder)
    assert full != half
    assert half == pytest.approx(full, abs=0.05)


def test_divergence_names_step_and_data_and_leaves_the_weights(
    tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make
) -> None:
    """An absurd rate: the first step ruins the weights; neither skipping nor going back to that save mends them."""
    graph = make_graph(learning_rate=1e20, warmup_sequences=0, save_every_tokens=1)
    trainer = make_trainer(graph, stage_of(graph, "transformer"), tmp_path / "run")
    with pytest.raises(TrainingDiverged) as caught:
        trainer.run()
    message = str(caught.value)
    position = str(trainer.batches.position(12)).replace("'", '"')
    for part in (" at step 4 of 12", position, "step-00000001", "lower learning_rate (now 1e+20)", "weights were not"):
        assert part in message
    kept = saved(tmp_path / "run/state/step-00000001")
    now = state_tensors(trainer.model, trainer.engine.optimizer)
    assert all(torch.equal(kept[name], value) for name, value in now.items() if name.startswith("weights/"))
    assert read_metrics(tmp_path / "run/metrics.jsonl").events[-1]["event"] == "stop"


def test_a_bad_batch_is_skipped(tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make) -> None:
    """One step's loss is not a number: its update is left out, and nothing else changes."""
    graph = make_graph()
    trainer = make_trainer(graph, stage_of(graph, "mamba2"), tmp_path / "run")
    once = iter([False] * 4 + [True] + [False] * 99)
    loss = trainer.model.loss
    trainer.model.loss = lambda *batch: loss(*batch) * (torch.nan if next(once) else 1)
    trainer.run()
    metrics = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in metrics.steps] == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert [event["step"] for event in metrics.events if event["event"] == "skip"] == [5]
    assert trainer.engine.optimizer.state[trainer.engine.parameters[0]]["step"] == 11


def test_spoilt_weights_are_mended_from_the_save(
    tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make, capsys: pytest.CaptureFixture
) -> None:
    """A fault of the machine puts a NaN into a weight: the run goes back to its save and ends as if nothing was."""
    graph = make_graph()
    stage = stage_of(graph, "hybrid")
    make_trainer(graph, stage, tmp_path / "whole").run()
    trainer = make_trainer(graph, stage, tmp_path / "run")
    strikes = iter([7])

    def struck(step: int, update: Callable[..., None] = trainer.compute) -> Any:
        sums, decision = update(step)
        if step == 7 and next(strikes, None):
            with torch.no_grad():
                trainer.engine.parameters[3].view(-1)[0] = torch.nan
        return sums, decision

    trainer.compute = struck
    trainer.run()
    events = [event for event in read_metrics(tmp_path / "run/metrics.jsonl").events if event["event"] == "rollback"]
    assert [(event["step"], event["from_step"]) for event in events] == [(10, 6)]
    assert "rollback at step 10" in capsys.readouterr().err
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert_equal_saves(tmp_path / "run/state/step-00000012", tmp_path / "whole/state/step-00000012")


def test_damaged_newest_save(
    tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make, capsys: pytest.CaptureFixture
) -> None:
    """The broken file is named, the save before it is used, and the end is bit-equal all the same."""
    graph = make_graph()
    stage = stage_of(graph, "hybrid")
    make_trainer(graph, stage, tmp_path / "whole").run()
    with pytest.raises(TrainingStopped):
        make_trainer(graph, stage, tmp_path / "run", stop_at=7).run()
    broken = tmp_path / "run/state/step-00000007/__0_0.distcp"
    data = bytearray(broken.read_bytes())
    data[-5] ^= 4
    broken.write_bytes(data)
    make_trainer(graph, stage, tmp_path / "run").run()
    errors = capsys.readouterr().err
    assert f"warning: damaged save: {broken} does not have its digest" in errors
    assert "goes on from step 6 of 12" in errors
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert_equal_saves(tmp_path / "run/state/step-00000012", tmp_path / "whole/state/step-00000012")


@pytest.mark.parametrize("room_bytes", [0, 20_000])
def test_full_disk_stops_and_loses_nothing(
    room_bytes: int, tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make, small_disk: Any
) -> None:
    """No room for a row of metrics, or for the row but not for the save."""
    graph = make_graph()
    stage, run = stage_of(graph, "mamba2"), small_disk.folder / "run"
    make_trainer(graph, stage, tmp_path / "whole").run()
    with pytest.raises(TrainingStopped):
        make_trainer(graph, stage, run, stop_at=7).run()
    kept = {path: path.read_bytes() for path in sorted((run / "state").rglob("*.distcp"))}
    small_disk.fill(room_bytes)
    with pytest.raises(CheckpointError, match=r"cannot write to .*run[\s\S]*remedy: free space"):
        make_trainer(graph, stage, run).run()
    assert {path: path.read_bytes() for path in sorted((run / "state").rglob("*.distcp"))} == kept
    small_disk.clear()
    make_trainer(graph, stage, run).run()
    assert losses(run) == losses(tmp_path / "whole")
    assert_equal_saves(run / "state/step-00000012", tmp_path / "whole/state/step-00000012")


def test_gpu_that_is_not_there(tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make) -> None:
    graph = make_graph(device="cuda")
    if torch.cuda.is_available():
        make_trainer(graph, stage_of(graph, "mamba2"), tmp_path / "run").run()
        return
    with pytest.raises(ConfigError, match=r"training\.device is cuda[\s\S]*use `auto` or `cpu`"):
        make_trainer(graph, stage_of(graph, "mamba2"), tmp_path / "run")


def test_compilation_is_for_gpus(tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make) -> None:
    graph = make_graph(device="cpu", compile=True)
    with pytest.raises(ConfigError, match=r"training\.compile is for GPUs[\s\S]*set it to false"):
        make_trainer(graph, stage_of(graph, "mamba2"), tmp_path / "run")
