"""A training stage as a job: what it is called and what it is made from. Whoever waits for one needs no torch."""

from __future__ import annotations

from sidewinder.graph import Stage
from sidewinder.record import RECORD, Artifact, Job, digest, outputs_of


def stage_job(stage: Stage) -> Job:
    """The job of a pretraining or an extension. Raises CorruptArtifact where an upstream record cannot be read."""
    parent: list[Artifact] = []
    if stage.parent is not None:
        parent = [entry for entry in outputs_of(stage.parent.record) if entry.role == "checkpoint"]
    return Job(
        folder=stage.folder,
        kind=stage.kind,
        name=f"{stage.model_name}-s{stage.seed}/{stage.kind}-{stage.training.context_tokens}",
        config=stage.resolved(),
        inputs=[*outputs_of(stage.blend / RECORD), *parent],
    )


def data_seed(stage: Stage) -> int:
    """Seed of a stage's data order: the same for all models of a study seed, another for every stage."""
    return int(digest(["data", stage.seed, stage.kind, stage.training.context_tokens])[:12], 16)
