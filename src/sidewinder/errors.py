"""The errors that a user sees. Each names the thing, the value and the remedy; the command line prints them bare."""

from __future__ import annotations


class SidewinderError(Exception):
    """Base of all errors that are the user's to mend; anything else is a bug and keeps its traceback."""

    everywhere = False
    """Whether all processes of a training stage raise it alike, so that one of them need tell."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}\n  remedy: {remedy}" if remedy else message)
        self.message = message


class ConfigError(SidewinderError):
    """config.yaml does not describe a study that can run."""


class DataError(SidewinderError):
    """A source, shard or data set is missing, empty, truncated or does not have the promised form."""


class CorruptArtifact(SidewinderError):
    """A file that a finished job left is missing, truncated or altered."""


class StorageError(SidewinderError):
    """A disk is full, a quota used up, or a folder read-only."""


class CheckpointError(SidewinderError):
    """A checkpoint cannot be read, written, or belongs to another model."""


class TrainingDiverged(SidewinderError):
    """The loss or the gradient became NaN or infinite."""

    everywhere = True


class EvaluationError(SidewinderError):
    """A suite cannot be run on a checkpoint."""


class ClusterError(SidewinderError):
    """A job cannot be submitted, found again or finished on the cluster."""
