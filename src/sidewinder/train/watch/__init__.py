"""Watching over a run: numbers that are not finite, jumps of the loss, processes that hang or lag behind."""

from sidewinder.train.watch.nonfinite import Action, Decision, NonFinitePolicy
from sidewinder.train.watch.spikes import SpikeDetector
from sidewinder.train.watch.stragglers import StragglerWatch, stragglers
from sidewinder.train.watch.watchdog import HUNG, Watchdog

__all__ = [
    "HUNG",
    "Action",
    "Decision",
    "NonFinitePolicy",
    "SpikeDetector",
    "StragglerWatch",
    "Watchdog",
    "stragglers",
]
