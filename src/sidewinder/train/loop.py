"""The training loop: batch → micro-batches → gradients → clip → step, and what happens between two steps.

Steps are counted from 1; a save of step s holds the state after it. Everything that the next step depends on is in the
save (weights, optimizer state, s) or is a pure function of s (data, learning rate): that is why a resumed run gives
the same bits as an undisturbed one.
"""

# Shape legend: B sequences of a step, L tokens of a sequence.

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.utils import clip_grads_with_norm_

from sidewinder import record
from sidewinder.config.training import Training
from sidewinder.errors import CheckpointError, TrainingDiverged
from sidewinder.model import LanguageModel
from sidewinder.progress import Progress
from sidewinder.train.device import memory_bytes, precision, prepare_torch
from sidewinder.train.metrics import MetricsWriter, set_aside_metrics
from sidewinder.train.optimizer import (
    gradient_norm,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)
from sidewinder.train.saves import Save, explained, latest, saves, tidy, write_save
from sidewinder.train.schedule import learning_rate
from sidewinder.train.signals import StopSignals, TrainingStopped


class Batches(Protocol):
    """What the loop asks of a data loader; steps count from 0 here, as in `tokens.loader`."""

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs_BL, targets_BL) of a step: a pure function of seed and step."""

    def position(self, step: int) -> dict[str, Any]:
        """Where in the data a step begins, for messages."""


@dataclass
class Trainer:
    """Trains `model` in place to the end of its budget; state and metrics lie in `folder`."""

    title: str
    folder: Path
    identity: str
    model: LanguageModel
    batches: Batches
    training: Training

    def __post_init__(self) -> None:
        self.device = prepare_torch(self.training)
        self.model.to(self.device).train()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.model, self.training)
        self.state = self.folder / "state"
        self.metrics_path = self.folder / "metrics.jsonl"
        self.save_every_steps = max(1, self.training.save_every_tokens // self.training.tokens_per_step)

    def run(self) -> None:
        """Trains from the newest good save, or from the first step.

        Raises TrainingDiverged (non-finite loss or gradient; the weights are then those of the step before),
        TrainingStopped (SIGTERM or SIGINT; the state is saved) and CheckpointError (the disk is full or not writable).
        """
        with self._open_metrics() as self.metrics, StopSignals() as self.stop:
            first, total = self._resume(), self.training.steps
            with Progress(self.title, total=total, unit="step", done=first) as progress:
                for step in range(first + 1, total + 1):
                    row = self._step(step)
                    self._log("step", **row)
                    _show(progress, row)
                    self._after(step)
            self._log("end", step=total)

    def _step(self, step: int) -> dict[str, Any]:
        """One optimizer step; returns its row of metrics."""
        started = time.perf_counter()
        loss, norm = self._gradients(step)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(step, loss, norm)
        rate = learning_rate(self.training, step)
        set_rate(self.optimizer, rate)
        clip_grads_with_norm_(self.parameters, self.training.clip_norm, torch.tensor(norm, device=self.device))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        step_s = time.perf_counter() - started
        return {
            "step": step,
            "tokens": step * self.training.tokens_per_step,
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens_per_s": round(self.training.tokens_per_step / step_s, 1),
            "step_s": round(step_s, 6),
            "memory_bytes": memory_bytes(self.device),
        }

    def _gradients(self, step: int) -> tuple[float, float]:
        """Accumulates the gradient of the mean loss over all tokens of a step; returns that loss and the global norm.

        Micro-batches are equal in size, so the mean over tokens is the mean of theirs. One wait for the device.
        """
        inputs_BL, targets_BL = map(torch.from_numpy, self.batches.batch(step - 1))
        size = self.training.micro_batch_sequences or self.training.batch_sequences
        share = size / self.training.batch_sequences
        loss = torch.zeros((), device=self.device)
        for inputs, targets in zip(inputs_BL.split(size), targets_BL.split(size), strict=True):
            with precision(self.training, self.device):
                part = share * self.model.loss(inputs.to(self.device), targets.to(self.device))
            part.backward()
            loss += part.detach()
        values = torch.stack([loss, gradient_norm(self.parameters)]).tolist()
        return values[0], values[1]

    def _after(self, step: int) -> None:
        """Between two steps: save where it is time to, stop where it was asked for."""
        last = step == self.training.steps
        signal = self.stop.received
        if last or signal or step % self.save_every_steps == 0:
            self._save(step)
        if signal and not last:
            message = f"{self.title}: {signal} at step {step:,} of {self.training.steps:,}; the state is saved"
            self._log("stop", step=step, message=message)
            raise TrainingStopped(message, remedy="run the same command again: it goes on from this step")

    def _save(self, step: int) -> None:
        started = time.perf_counter()
        with explained(self.folder):
            self.metrics.sync()
        parts = {
            "model": {name: value.detach().cpu() for name, value in self.model.state_dict().items()},
            "optimizer": {name: value.cpu() for name, value in optimizer_tensors(self.model, self.optimizer).items()},
        }
        size = write_save(
            self.state,
            step=step,
            tokens=step * self.training.tokens_per_step,
            identity=self.identity,
            parts=parts,
            keep=self.training.keep_saves,
        )
        self._log("save", step=step, bytes=size, save_s=round(time.perf_counter() - started, 6))

    def _resume(self) -> int:
        """Restores the newest good save; returns its step, 0 for none."""
        with explained(self.state):
            tidy(self.state, self.identity, self._warn)
            save = latest(self.state, self.identity, self._warn)
        if save:
            self._restore(save)
        step = save.step if save else 0
        event = "resume" if save else "start"
        self._log(event, from_step=step, identity=self.identity, code=record.code()["sha256"])
        if save:
            self._tell(f"{self.title}: goes on from step {step:,} of {self.training.steps:,}")
        return step

    def _restore(self, save: Save) -> None:
        try:
            self.model.load_state_dict(save.tensors("model"))
            restore_optimizer(self.model, self.optimizer, save.tensors("optimizer"))
        except (RuntimeError, CheckpointError) as error:  # load_state_dict raises RuntimeError listing the tensors.
            raise CheckpointError(
                f"{save.folder} does not fit the model: {error}",
                remedy=f"it was written by other code; delete {self.state} to train from the start",
            ) from error

    def _diverged(self, step: int, loss: float, norm: float) -> TrainingDiverged:
        good = saves(self.state)
        last = f"the last good save is {good[-1]}" if good else "there is no save yet"
        position = json.dumps(self.batches.position(step - 1), sort_keys=True)
        message = (
            f"{self.title}: loss {loss:g}, gradient norm {norm:g} at step {step:,} of {self.training.steps:,}; "
            f"data position {position}; {last}; the weights were not changed by this step"
        )
        self._log("stop", step=step, message=message)
        return TrainingDiverged(
            message,
            remedy=f"lower learning_rate (now {self.training.learning_rate:g}) or raise warmup_sequences "
            f"(now {self.training.warmup_sequences:,}), which trains a new run beside this one; or, if the machine may "
            "have erred, run the same command again: it goes on from the last good save",
        )

    def _open_metrics(self) -> MetricsWriter:
        with explained(self.folder):
            if moved := set_aside_metrics(self.metrics_path, self.identity):
                self._tell(f"{self.metrics_path} was of another configuration or corpus: it is now {moved}")
            return MetricsWriter(self.metrics_path)

    def _log(self, event: str, **fields: Any) -> None:
        with explained(self.folder):
            self.metrics.write(event, **fields)

    def _tell(self, message: str) -> None:
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
