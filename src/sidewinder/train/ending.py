"""What a run says when it ends before its last step: what happened, where it can go on from, what may help."""

from __future__ import annotations

import math
from pathlib import Path

from sidewinder.config.training import Training
from sidewinder.errors import TrainingDiverged
from sidewinder.train.exchange import Sums
from sidewinder.train.signals import TrainingStopped
from sidewinder.train.watch.nonfinite import Decision


def stopped(
    title: str, training: Training, step: int, signal: str, *, sound: bool, newest: Path | None
) -> TrainingStopped:
    """The error of a run that a signal stopped after a step; one that did not leave `sound` weights was not saved."""
    unsaved = "" if sound else "weights or optimizer state are not finite and were not saved; "
    way_on = "it goes on from the newest save" if newest else "it starts from the first step"
    return TrainingStopped(
        f"{title}: {signal} at step {step:,} of {training.steps:,}; {unsaved}{_told(newest)}",
        remedy=f"run the same command again: {way_on}",
    ).by(signal)


def diverged(
    title: str, training: Training, step: int, sums: Sums, decision: Decision, where: str, newest: Path | None
) -> TrainingDiverged:
    """The error of a run that cannot get past a step, by a decision; `where` is its place in the data."""
    message = (
        f"{title}: loss {sums.loss:g}, gradient norm {sums.norm:g} at step {step:,} of {training.steps:,}; {where}; "
        f"{decision.reason}; {_told(newest)}"
    )
    if not (math.isfinite(sums.loss) and math.isfinite(sums.norm)):
        message += "; the weights were not changed by this step"
    return TrainingDiverged(message, remedy="; or, ".join(_remedies(training, decision)))


def _remedies(training: Training, decision: Decision) -> list[str]:
    """What may help, the likeliest first."""
    remedies = []
    if decision.used_up:
        limits = ", ".join(f"{name} (now {getattr(training.non_finite, name)})" for name in decision.used_up)
        remedies.append(f"raise what is used up of training.non_finite, {limits}: the run goes on from its newest save")
    remedies.append(
        f"lower learning_rate (now {training.learning_rate:g}) or raise warmup_sequences "
        f"(now {training.warmup_sequences:,}), which trains a new run beside this one"
    )
    remedies.append("if the machine may have erred, run the same command on another: it goes on from the newest save")
    return remedies


def _told(newest: Path | None) -> str:
    return f"the newest save is {newest}" if newest else "there is no save yet"
