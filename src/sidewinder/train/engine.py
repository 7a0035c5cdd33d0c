"""The arithmetic of a step: this process's batch, its gradients, what the processes tell each other, the update.

The same alone and as one of many processes. Steps are counted from 1.
"""

# Shape legend: B sequences of a step (of this process), L tokens of a sequence.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from sidewinder.config.training import Training
from sidewinder.model import LanguageModel
from sidewinder.model.count import flops_per_token
from sidewinder.ops.cross_entropy import IGNORED
from sidewinder.train.batch import Part, document_starts, parts_of
from sidewinder.train.device import precision, prepare_torch
from sidewinder.train.hardware import peak_of
from sidewinder.train.meter import DATA_WAIT, Meter
from sidewinder.train.optimizer import make_optimizer, set_rate, state_tensors
from sidewinder.train.parallel.gradients import clip, squared_norm, sum_small
from sidewinder.train.parallel.world import World
from sidewinder.train.schedule import batch_sequences, learning_rate, sequences_before


class Batches(Protocol):
    """What the loop asks of a data loader; sequences of a run are counted from 0."""

    eos: int
    bytes_per_token: float | None

    @property
    def predicted_share(self) -> float:
        """Share of all targets that are predicted, on average; asked for where documents are packed."""

    def sequences(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs_BL, targets_BL) of some sequences: a pure function of seed and place; -100 is not predicted."""

    def position(self, first: int) -> dict[str, Any]:
        """Where in the data a sequence lies, for messages."""


RUNS, RUN = 8, 16
"""Runs of sequences that tell how long documents are, and the sequences of each: in a row they come from all sources by
their shares, which sequences at equal distances need not."""


@dataclass
class Engine:
    """A model on this process's device, its optimizer, its part of the data."""

    model: LanguageModel
    batches: Batches
    training: Training
    world: World

    def __post_init__(self) -> None:
        training = self.training
        self.device = prepare_torch(training)
        if self.world.device_mesh is None:
            self.model.to(self.device)
        self.model.train()
        self.weight = 1.0
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.model, training)
        self.meter = Meter(
            flops_per_token(
                self.model.config, self.model.vocab_size, training.context_tokens, seen_keys(self.batches, training)
            ),
            self.world.size,
            peak_of(self.device) if training.precision == "bfloat16" and training.float8 == "none" else None,
            self.batches.bytes_per_token,
        )

    def state(self) -> dict[str, Tensor]:
        """Everything that a save holds, as views: writing into them restores it."""
        return state_tensors(self.model, self.optimizer)

    def gradients(self, step: int, beat: Callable[[int], object]) -> Tensor:
        """Accumulates this process's part of the gradient of the mean loss over all tokens of a step.

        Returns its part of the loss. All parts are equal in size, so the mean over tokens is the mean of theirs; where
        documents are packed, each counts by its share of predicted tokens over that of the whole run, so that all
        tokens of the run weigh the same. `beat(step)` is called after each of them.
        """
        with self.meter.waiting(DATA_WAIT):
            parts = self._parts(step)
        share = 1 / (len(parts) * self.world.size)
        loss = torch.zeros((), device=self.device)
        self.weight = 0.0
        for part in parts:
            inputs_BL, targets_BL, resets_BL = part.to(self.device)
            weight = share * self._fullness(part)
            self.weight += weight
            with precision(self.training, self.device):
                own = weight * self.model.loss(inputs_BL, targets_BL, resets_BL)
            own.backward()
            loss += own.detach()
            beat(step)
        sum_small(self.parameters, self.world)
        return loss

    def _fullness(self, part: Part) -> float:
        """Predicted tokens of a part over those that such parts have on average: 1 where nothing is padded."""
        if self.training.packing != "documents":
            return 1.0
        predicted = (part.targets != IGNORED).float().mean().item()
        return predicted / self.batches.predicted_share

    def _parts(self, step: int) -> list[Part]:
        """The micro-batches of a step that this process computes: its sequences, and its stretch of each."""
        count = batch_sequences(self.training, step) // self.world.mesh.data
        first = sequences_before(self.training, step) + self.world.place("replica", "shard") * count
        inputs_BL, targets_BL = self.batches.sequences(first, count)
        eos = self.batches.eos if self.training.reset_documents else None
        size = self.training.micro_batch_sequences or count
        return parts_of(inputs_BL, targets_BL, size=size, eos=eos, world=self.world)

    def exchange(self, loss: Tensor, flags: Sequence[float]) -> tuple[float, float, list[float]]:
        """Sums over the processes: the loss (its mean over the predicted tokens), the gradients' norm, and the flags.

        It is the one wait for the device in a step.
        """
        own = torch.stack([loss, squared_norm(self.parameters, self.world)])
        numbers = torch.cat([own, torch.tensor([*flags, self.weight]).to(self.device)])
        if self.world.device_mesh is not None:
            dist.all_reduce(numbers)
        mean, squared, *told, weight = numbers.tolist()
        if self.training.packing == "documents":
            mean /= weight
        return mean, math.sqrt(squared) if squared >= 0 else math.nan, told

    def update(self, step: int, norm: float) -> None:
        """Clips gradients of this norm and makes the optimizer's step at its rate."""
        set_rate(self.optimizer, learning_rate(self.training, step))
        clip(self.parameters, norm, self.training.clip_norm)
        self.optimizer.step()

    def clear(self) -> None:
        """Forgets the gradients."""
        self.optimizer.zero_grad(set_to_none=True)


def seen_keys(batches: Batches, training: Training) -> float | None:
    """Keys that attention sees from a token on average where it sees one document alone; None where it sees all before.

    Taken from RUNS of sequences spread evenly over the stage, which other processes and later starts read alike.
    """
    if not training.reset_documents:
        return None
    seen, total = 0, training.sequences
    firsts = [total * run // RUNS for run in range(RUNS)]
    places = {place for first in firsts for place in range(first, min(first + RUN, total))}
    for place in places:
        inputs_BL, _ = batches.sequences(place, 1)
        starts = document_starts(torch.from_numpy(inputs_BL), batches.eos)[0].nonzero()[:, 0]
        lengths = torch.diff(starts, append=torch.tensor([inputs_BL.shape[1]]))
        seen += int((lengths * (lengths + 1) // 2).sum())
    return seen / (len(places) * training.context_tokens)
