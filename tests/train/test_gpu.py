"""Training on a GPU: resumed to the bit where told to be, saved while it goes on, near the CPU's losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidewinder.config.model import ModelConfig
from sidewinder.model import LanguageModel
from sidewinder.train.device import precision
from sidewinder.train.metrics import read_metrics
from sidewinder.train.parallel.parallelize import prepare_layers
from sidewinder.train.saves import described
from sidewinder.train.signals import TrainingStopped

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
MODELS = ("transformer", "mamba", "mamba2", "hybrid")
Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def restored() -> Any:
    """Determinism is a setting of the process, which other tests do not expect."""
    yield
    torch.set_deterministic_debug_mode("default")


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl").steps]


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_resume_is_bit_equal(
    model: str, kind: str, tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make
) -> None:
    graph = make_graph(wide=True, device="cuda", deterministic=True, precision=kind)
    stage = stage_of(graph, model)
    whole = make_trainer(graph, stage, tmp_path / "whole")
    whole.run()
    with pytest.raises(TrainingStopped):
        make_trainer(graph, stage, tmp_path / "halves", stop_at=7).run()
    second = make_trainer(graph, stage, tmp_path / "halves")
    second.run()
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    for name, value in second.engine.state().items():
        assert torch.equal(value, whole.engine.state()[name]), name


@pytest.mark.parametrize("model", MODELS)
def test_losses_are_near_the_cpus(
    model: str, tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make
) -> None:
    measured = []
    for device in ("cpu", "cuda"):
        graph = make_graph(tmp_path / device, wide=True, device=device)
        make_trainer(graph, stage_of(graph, model), tmp_path / f"run-{device}").run()
        measured.append(losses(tmp_path / f"run-{device}"))
    assert measured[1] == pytest.approx(measured[0], abs=5e-3, rel=0)


def test_recomputed_layers_keep_no_copies_of_weights(make_graph: Make, stage_of: Make) -> None:
    """After a forward pass, of all that a layer made only its input is left."""
    training = stage_of(make_graph(device="cuda", precision="bfloat16"), "transformer").training
    training = training.model_copy(update={"recompute": "-"})
    model = LanguageModel(ModelConfig(pattern="-" * 8, hidden_size=512), 256).cuda()
    prepare_layers(model, training)
    tokens_BL = torch.zeros(1, 8, dtype=torch.int64, device="cuda")
    weights_bytes = 2 * sum(parameter.numel() for parameter in model.layers.parameters())
    before_bytes = torch.cuda.memory_allocated()
    with precision(training, torch.device("cuda")):
        loss = model.loss(tokens_BL, tokens_BL)
    assert torch.cuda.memory_allocated() - before_bytes < weights_bytes / 8
    loss.backward()


def test_an_asynchronous_save_is_what_was_there(
    tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make
) -> None:
    """A save that is written while training goes on restores the step it was begun at."""
    graph = make_graph(wide=True, device="cuda", deterministic=True, save_every_tokens=1)
    stage = stage_of(graph, "hybrid")
    trainer = make_trainer(graph, stage, tmp_path / "run")
    assert trainer.saver.asynchronous
    kept: dict[int, dict[str, torch.Tensor]] = {}
    start = trainer.saver.start

    def noting(step: int, tokens: int, tensors: dict[str, torch.Tensor]) -> None:
        kept[step] = {name: tensor.clone() for name, tensor in tensors.items()}
        start(step, tokens, tensors)

    trainer.saver.start = noting
    trainer.run()
    for folder in sorted((tmp_path / "run/state").glob("step-*")):
        fresh = make_trainer(graph, stage, tmp_path / f"fresh-{folder.name}")
        tensors = fresh.engine.state()
        fresh.saver.restore(described(folder), tensors)
        step = int(folder.name.removeprefix("step-"))
        assert all(torch.equal(value, kept[step][name]) for name, value in tensors.items())


@pytest.mark.parametrize("what", ["weights", "exp_avg_sq"])
def test_one_number_that_is_not_finite_is_found_before_a_save(
    what: str, tmp_path: Path, make_graph: Make, make_trainer: Make, stage_of: Make
) -> None:
    """The run goes back to the save before, which was written beside training, and ends as an undisturbed one."""
    graph = make_graph(wide=True, device="cuda", deterministic=True)
    stage = stage_of(graph, "hybrid")
    make_trainer(graph, stage, tmp_path / "whole").run()
    trainer = make_trainer(graph, stage, tmp_path / "run")
    update, left = trainer.engine.update, [6]

    def spoiling(step: int, norm: float) -> None:
        update(step, norm)
        if step in left:
            left.remove(step)
            parameter = trainer.engine.parameters[3]
            value = parameter.detach() if what == "weights" else trainer.engine.optimizer.state[parameter][what]
            value.view(-1)[-1] = torch.nan

    trainer.engine.update = spoiling
    trainer.run()
    events = read_metrics(tmp_path / "run/metrics.jsonl").events
    returns = [(event["step"], event["from_step"]) for event in events if event["event"] == "rollback"]
    assert returns == [(6, 4)]
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
