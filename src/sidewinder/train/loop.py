"""The training loop: batch → micro-batches → gradients → clip → step, and what happens between two steps.

Steps are counted from 1; a save of step s holds the state after it. Everything that the next step depends on is in the
save (weights, optimizer state, s) or is a pure function of s (data, learning rate): that is why a resumed run gives
the same bits as an undisturbed one. The same loop runs alone and as one of many processes; all of them agree on what to
do between two steps from numbers that they exchange once a step.
"""

# Shape legend: B sequences of a step (of this process), L tokens of a sequence.

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from sidewinder import record
from sidewinder.config.training import Training
from sidewinder.errors import TrainingDiverged
from sidewinder.model import LanguageModel
from sidewinder.progress import Progress
from sidewinder.train.batch import Part, parts_of
from sidewinder.train.device import memory_bytes, precision, prepare_torch
from sidewinder.train.metrics import MetricsWriter, set_aside_metrics
from sidewinder.train.optimizer import make_optimizer, set_rate, state_tensors
from sidewinder.train.parallel.gradients import clip, squared_norm, sum_small
from sidewinder.train.parallel.world import World
from sidewinder.train.saver import Saver
from sidewinder.train.saves import explained, saves
from sidewinder.train.schedule import batch_sequences, learning_rate, sequences_before, tokens_after
from sidewinder.train.signals import StopSignals, TrainingStopped, agreed


class Batches(Protocol):
    """What the loop asks of a data loader; sequences of a run are counted from 0."""

    eos: int

    def sequences(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs_BL, targets_BL) of some sequences: a pure function of seed and place."""

    def position(self, first: int) -> dict[str, Any]:
        """Where in the data a sequence lies, for messages."""


@dataclass(frozen=True)
class Sums:
    """What all processes know after exchanging their numbers."""

    loss: float
    norm: float
    signal: str | None
    saved: bool
    """No process is still writing a save."""


@dataclass
class Trainer:
    """Trains `model` in place to the end of its budget; state and metrics lie in `folder`."""

    title: str
    folder: Path
    identity: str
    model: LanguageModel
    batches: Batches
    training: Training
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        self.device = prepare_torch(self.training)
        if self.world.device_mesh is None:
            self.model.to(self.device)
        self.model.train()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.model, self.training)
        self.metrics_path = self.folder / "metrics.jsonl"
        self.saver = Saver(
            self.folder / "state",
            self.identity,
            self.world,
            keep=self.training.keep_saves,
            keep_every_tokens=self.training.keep_every_tokens,
            asynchronous=self.device.type == "cuda",
            warn=self._warn,
        )

    def run(self) -> None:
        """Trains from the newest good save, or from the first step.

        Raises TrainingDiverged (non-finite loss or gradient; the weights are then those of the step before),
        TrainingStopped (a signal; the state is saved) and CheckpointError (the disk is full or not writable).
        """
        with self._open_metrics() as self.metrics, StopSignals() as self.stop:
            first, total = self._resume(), self.training.steps
            with Progress(self.title, total=total, unit="step", done=first, silent=not self.world.first) as progress:
                for step in range(first + 1, total + 1):
                    row, sums = self._step(step)
                    self._log("step", **row)
                    _show(progress, row)
                    self._after(step, sums)
            self._log("end", step=total)

    def _step(self, step: int) -> tuple[dict[str, Any], Sums]:
        """One optimizer step; returns its row of metrics, and what else the processes told each other."""
        started = time.perf_counter()
        loss, data_wait_s = self._gradients(step)
        sums = self._exchange(loss)
        if not (math.isfinite(sums.loss) and math.isfinite(sums.norm)):
            raise self._diverged(step, sums)
        rate = learning_rate(self.training, step)
        set_rate(self.optimizer, rate)
        clip(self.parameters, sums.norm, self.training.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        step_s = time.perf_counter() - started
        tokens = batch_sequences(self.training, step) * self.training.context_tokens
        row = {
            "step": step,
            "tokens": tokens_after(self.training, step),
            "loss": sums.loss,
            "learning_rate": rate,
            "gradient_norm": sums.norm,
            "tokens_per_s": round(tokens / step_s, 1),
            "step_s": round(step_s, 6),
            "data_wait_s": round(data_wait_s, 6),
            "memory_bytes": memory_bytes(self.device),
        }
        return row, sums

    def _gradients(self, step: int) -> tuple[torch.Tensor, float]:
        """Accumulates this process's part of the gradient of the mean loss over all tokens of a step.

        Returns its part of the loss, and the seconds that it waited for data. All parts are equal in size, so the
        mean over tokens is the mean of theirs; parts sum to the whole.
        """
        started = time.perf_counter()
        parts = self._parts(step)
        waited_s = time.perf_counter() - started
        share = 1 / (len(parts) * self.world.size)
        loss = torch.zeros((), device=self.device)
        for part in parts:
            inputs_BL, targets_BL, resets_BL = part.to(self.device)
            with precision(self.training, self.device):
                own = share * self.model.loss(inputs_BL, targets_BL, resets_BL)
            own.backward()
            loss += own.detach()
        sum_small(self.parameters, self.world)
        return loss, waited_s

    def _parts(self, step: int) -> list[Part]:
        """The micro-batches of a step that this process computes: its sequences, and its stretch of each."""
        count = batch_sequences(self.training, step) // self.world.mesh.data
        first = sequences_before(self.training, step) + self.world.place("replica", "shard") * count
        inputs_BL, targets_BL = self.batches.sequences(first, count)
        eos = self.batches.eos if self.training.reset_documents else None
        size = self.training.micro_batch_sequences or count
        return parts_of(inputs_BL, targets_BL, size=size, eos=eos, world=self.world)

    def _exchange(self, loss: torch.Tensor) -> Sums:
        """Sums over the processes: the loss, the gradients' norm, who was told to stop, who is still saving."""
        own = [self.stop.numbers, [float(self.saver.busy and not self.saver.written)]]
        flags = torch.tensor([number for numbers in own for number in numbers], device=self.device)
        numbers = torch.cat([torch.stack([loss, squared_norm(self.parameters, self.world)]), flags])
        if self.world.device_mesh is not None:
            dist.all_reduce(numbers)
        mean, squared, *told, writing = numbers.tolist()  # The one wait for the device in a step.
        return Sums(mean, math.sqrt(squared) if squared >= 0 else math.nan, agreed(told), writing == 0)

    def _after(self, step: int, sums: Sums) -> None:
        """Between two steps: save where it is time to, stop where it was asked for."""
        last = step == self.training.steps
        if self.saver.busy and sums.saved:
            self._finish_save()
        if last or sums.signal or self._time_to_save(step):
            self._save(step, wait=last or sums.signal is not None)
        if sums.signal and not last:
            message = f"{self.title}: {sums.signal} at step {step:,} of {self.training.steps:,}; the state is saved"
            self._log("stop", step=step, message=message)
            remedy = "run the same command again: it goes on from this step"
            raise TrainingStopped(message, remedy=remedy).by(sums.signal)

    def _time_to_save(self, step: int) -> bool:
        every = self.training.save_every_tokens
        return tokens_after(self.training, step) // every > tokens_after(self.training, step - 1) // every

    def _save(self, step: int, *, wait: bool) -> None:
        """Begins a save; waits for it where asked, or where saving is not asynchronous."""
        if self.saver.busy:
            self._finish_save()
        if self.world.first:
            with explained(self.folder):
                self.metrics.sync()
        tensors = state_tensors(self.model, self.optimizer)
        self.saver.start(step, tokens_after(self.training, step), tensors)
        if wait or not self.saver.asynchronous:
            self._finish_save()

    def _finish_save(self) -> None:
        self._log("save", **self.saver.finish())

    def _resume(self) -> int:
        """Restores the newest good save; returns its step, 0 for none."""
        save = self.saver.newest()
        if save:
            self.saver.restore(save, state_tensors(self.model, self.optimizer))
        step = save.step if save else 0
        about = {"identity": self.identity, "code": record.code()["sha256"], "processes": self.world.size}
        self._log("resume" if save else "start", from_step=step, **about)
        if save:
            self._tell(f"{self.title}: goes on from step {step:,} of {self.training.steps:,}")
        return step

    def _diverged(self, step: int, sums: Sums) -> TrainingDiverged:
        good = saves(self.saver.state)
        last = f"the last good save is {good[-1]}" if good else "there is no save yet"
        position = json.dumps(self.batches.position(sequences_before(self.training, step)), sort_keys=True)
        message = (
            f"{self.title}: loss {sums.loss:g}, gradient norm {sums.norm:g} at step {step:,} of "
            f"{self.training.steps:,}; data position {position}; {last}; the weights were not changed by this step"
        )
        self._log("stop", step=step, message=message)
        return TrainingDiverged(
            message,
            remedy=f"lower learning_rate (now {self.training.learning_rate:g}) or raise warmup_sequences "
            f"(now {self.training.warmup_sequences:,}), which trains a new run beside this one; or, if the machine may "
            "have erred, run the same command again: it goes on from the last good save",
        )

    def _open_metrics(self) -> MetricsWriter:
        if not self.world.first:
            return MetricsWriter(Path(os.devnull))
        with explained(self.folder):
            if moved := set_aside_metrics(self.metrics_path, self.identity):
                self._tell(f"{self.metrics_path} was of another configuration or corpus: it is now {moved}")
            return MetricsWriter(self.metrics_path)

    def _log(self, event: str, **fields: Any) -> None:
        with explained(self.folder):
            self.metrics.write(event, **fields)

    def _tell(self, message: str) -> None:
        if self.world.first:
            print(message, file=sys.stderr, flush=True)

    def _warn(self, message: str) -> None:
        self._tell(f"warning: {message}")
        self._log("warning", message=message)


def _show(progress: Progress, row: dict[str, Any]) -> None:
    """`… 120/300 step 40 % | loss 5.214 | lr 1.0e-03 | 9.8k tok/s | 412 MiB | ETA 0:45`."""
    # A field is shown as key and value; speed and memory read better with the number first.
    progress.fields = {
        "loss": f"{row['loss']:.3f}",
        "lr": f"{row['learning_rate']:.1e}",
        f"{row['tokens_per_s'] / 1000:.1f}k": "tok/s",
        f"{row['memory_bytes'] / 2**20:,.0f}": "MiB",
    }
    progress.update(1)
