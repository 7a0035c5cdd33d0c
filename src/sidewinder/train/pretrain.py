"""Pretraining: one model from its initial weights through its budget (`sidewinder pretrain`)."""

from __future__ import annotations

from sidewinder.graph import Graph, Stage
from sidewinder.model import LanguageModel, init_weights
from sidewinder.train.stage import run_stage


def pretrain(graph: Graph, stage: Stage) -> None:
    """Trains a pretraining stage, from its newest save where there is one; does nothing where it is done.

    Raises CorruptArtifact (data), TrainingDiverged, TrainingStopped, CheckpointError (saves, disk).
    """

    def first(vocab_size: int) -> LanguageModel:
        model = LanguageModel(stage.model, vocab_size)
        init_weights(model, stage.seed)
        return model

    run_stage(graph, stage, [], first)
