"""Pretraining: one model from its initial weights through its budget (`sidewinder pretrain`)."""

from __future__ import annotations

from sidewinder.graph import Graph, Stage
from sidewinder.model import init_weights
from sidewinder.train.stage import run_stage


def pretrain(graph: Graph, stage: Stage) -> None:
    """Trains a pretraining stage, from its newest save where there is one; does nothing where it is done.

    Raises CorruptArtifact (data), TrainingDiverged, TrainingStopped, CheckpointError (saves, disk).
    """
    run_stage(graph, stage, lambda model, put: init_weights(model, stage.seed, put))
