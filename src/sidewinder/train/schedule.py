"""Batch and learning rate as pure functions of the step, at once for any step: no state to save, none to lose.

Steps are counted from 1. The rate warms up linearly, keeps its peak where the study says so, and decays to the minimum.
All of this is counted in sequences, as in the paper (arXiv 2406.07887), so that a change of batch size, during the run
as well, keeps the shape.
"""

from __future__ import annotations

import math

from sidewinder.config.training import Training


def batch_sequences(training: Training, step: int) -> int:
    """Sequences of a step."""
    return training.batches.size(step)


def sequences_before(training: Training, step: int) -> int:
    """Sequences of all steps before this one: where in the data it begins."""
    return training.batches.before(step)


def tokens_after(training: Training, step: int) -> int:
    """Tokens trained on once a step is done; step 0 is the start."""
    return sequences_before(training, step + 1) * training.context_tokens


def learning_rate(training: Training, step: int) -> float:
    """Rate of a step.

    A step's place on the curve is the number of sequences seen once it is done: the first step already learns, and
    the step that ends the decay has exactly the minimum rate.
    """
    seen, total = sequences_before(training, step + 1), training.sequences
    peak, minimum, warmup = training.learning_rate, training.minimum_learning_rate, training.warmup_sequences
    if seen < warmup or total == warmup:
        return peak * seen / warmup
    start, end = max(warmup, training.decay.start_share * total), training.decay.end_share * total
    if training.decay.shape == "constant" or seen < start:
        return peak
    if seen >= end:
        return minimum
    done = (seen - start) / (end - start)
    left = 0.5 * (1.0 + math.cos(math.pi * done)) if training.decay.shape == "cosine" else 1.0 - done
    return minimum + (peak - minimum) * left
