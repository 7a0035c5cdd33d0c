"""The learning rate as a pure function of the step: linear warm-up, then a cosine to the minimum at the budget's end.

Both parts are counted in sequences, as in the paper (arXiv 2406.07887), so that a change of batch size keeps the shape.
"""

from __future__ import annotations

import math

from sidewinder.config.training import Training


def learning_rate(training: Training, step: int) -> float:
    """Rate of a step, counted from 1.

    A step's place on the curve is the number of sequences seen once it is done: the first step already learns, and
    the last one has exactly the minimum rate.
    """
    seen = step * training.batch_sequences
    total, warmup = training.steps * training.batch_sequences, training.warmup_sequences
    if seen < warmup or total == warmup:
        return training.learning_rate * seen / warmup
    done = min(1.0, (seen - warmup) / (total - warmup))
    span = training.learning_rate - training.minimum_learning_rate
    return training.minimum_learning_rate + span * 0.5 * (1.0 + math.cos(math.pi * done))
