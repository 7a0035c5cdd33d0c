"""Extension: a pretrained model trained further at a longer context (`sidewinder extend`).

Only the weights are taken over: optimizer and schedule start anew, with the extension's own rates, and the RoPE base
is the extension's where the model has one.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sidewinder.errors import CheckpointError, ConfigError
from sidewinder.graph import Graph, Stage
from sidewinder.model import LanguageModel
from sidewinder.model.checkpoint import read_info, read_weights
from sidewinder.train.stage import run_stage


def extend(graph: Graph, stage: Stage) -> None:
    """Trains an extension stage from its parent's checkpoint; resumes and finishes as `pretrain` does.

    Raises CorruptArtifact (data, the parent's checkpoint), CheckpointError (a checkpoint of another model; saves,
    disk), TrainingDiverged, TrainingStopped.
    """
    if stage.parent is None:
        raise ConfigError(f"{stage.title} extends nothing", remedy="use `sidewinder pretrain` for it")
    parent = stage.parent

    def fill(model: LanguageModel, put: Callable[[Tensor, Tensor], object]) -> None:
        folder, parameters = parent.folder / "checkpoint", dict(model.named_parameters())
        info = read_info(folder)
        if info.vocab_size != model.vocab_size:
            raise CheckpointError(
                f"{folder} has a vocabulary of {info.vocab_size:,}, the blend one of {model.vocab_size:,}",
                remedy=f"delete {parent.folder} and run the study again",
            )
        shapes = {name: list(parameter.shape) for name, parameter in parameters.items()}
        read_weights(folder, shapes, lambda name, tensor: put(parameters[name], tensor))

    run_stage(graph, stage, fill)
