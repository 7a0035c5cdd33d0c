"""Extension: a pretrained model trained further at a longer context (`sidewinder extend`).

Only the weights are taken over: optimizer and schedule start anew, with the extension's own rates, and the RoPE base
is the extension's where the model has one.
"""

from __future__ import annotations

from sidewinder.errors import CheckpointError, ConfigError
from sidewinder.graph import Graph, Stage
from sidewinder.model import LanguageModel
from sidewinder.model.checkpoint import load_model
from sidewinder.record import outputs_of
from sidewinder.train.stage import run_stage


def extend(graph: Graph, stage: Stage) -> None:
    """Trains an extension stage from its parent's checkpoint; resumes and finishes as `pretrain` does.

    Raises CorruptArtifact (data, the parent's checkpoint), CheckpointError (a checkpoint of another model; saves,
    disk), TrainingDiverged, TrainingStopped.
    """
    if stage.parent is None:
        raise ConfigError(f"{stage.title} extends nothing", remedy="use `sidewinder pretrain` for it")
    parent = stage.parent

    def first(vocab_size: int) -> LanguageModel:
        folder = parent.folder / "checkpoint"
        pretrained, info = load_model(folder)
        if info.vocab_size != vocab_size:
            raise CheckpointError(
                f"{folder} has a vocabulary of {info.vocab_size:,}, the blend one of {vocab_size:,}",
                remedy=f"delete {parent.folder} and run the study again",
            )
        model = LanguageModel(stage.model, vocab_size)
        model.load_state_dict(pretrained.state_dict())
        return model

    inputs = [entry for entry in outputs_of(parent.record) if entry.role == "checkpoint"]
    run_stage(graph, stage, inputs, first)
