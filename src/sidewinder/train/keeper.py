"""A run's saves, as its loop deals with them: when one is due, what must not be saved, which one to go back to.

No save holds a number that is not finite: weights and optimizer state are looked at before it is begun, and those of a
save when it is read. The writing itself is in `saver`, the folders in `saves`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sidewinder.errors import CheckpointError
from sidewinder.model.share import local
from sidewinder.train.engine import Engine
from sidewinder.train.journal import Journal
from sidewinder.train.meter import CHECKPOINT_STALL
from sidewinder.train.saver import Saver
from sidewinder.train.saves import saves, set_aside
from sidewinder.train.schedule import tokens_after


@dataclass
class Keeper:
    """The saves of one run. Every process calls every method, at the same step."""

    saver: Saver
    engine: Engine
    journal: Journal
    beat: Callable[[int], object]
    """Called with the step of a save that is done."""
    _due: bool = False

    def due(self, step: int) -> bool:
        """Whether the run owes a save after a step: from a multiple of `save_every_tokens` on, until it is made."""
        training = self.engine.training
        every, after, before = (
            training.save_every_tokens,
            tokens_after(training, step),
            tokens_after(training, step - 1),
        )
        self._due |= after // every > before // every
        return self._due

    @property
    def writing(self) -> bool:
        """Whether this process is still at work on a save."""
        return self.saver.busy and not self.saver.written

    def save(self, step: int, *, wait: bool) -> bool:
        """Begins a save, unless some number is not finite: then it returns False, and there is none.

        Waits until it is done where asked, or where saving is not asynchronous.
        """
        self.finish()
        with self.engine.meter.waiting(CHECKPOINT_STALL):
            if not self._finite():
                return False
        self.journal.sync()
        with self.engine.meter.waiting(CHECKPOINT_STALL):
            self.saver.start(step, tokens_after(self.engine.training, step), self.engine.state())
        self._due = False
        if wait or not self.saver.asynchronous:
            self.finish()
        return True

    def finish(self) -> None:
        """Waits for the save that is being written, if there is one, and makes it count."""
        if self.saver.busy:
            with self.engine.meter.waiting(CHECKPOINT_STALL):
                done = self.saver.finish()
            self.beat(done["step"])
            self.journal.log("save", **done)

    def newest(self) -> Path | None:
        """Folder of the newest save, whole or not; None where there is none."""
        return next(reversed(saves(self.saver.state)), None)

    def kept(self) -> list[int]:
        """Steps of the newest saves, as many as are kept for a way back: no milestone of long ago."""
        return [_step(folder) for folder in self.saver.world.alone_first(self._kept)]

    def restore(self) -> int:
        """Reads the newest good save; returns its step, 0 where none was ever made.

        Raises CheckpointError where one does not fit the model, or none of them is finite.
        """
        spoilt = []
        while save := self.saver.newest():
            self.saver.restore(save, self.engine.state())
            if self._finite():
                return save.step
            spoilt.append(self._set_aside(save.folder, "holds numbers that are not finite"))
        if spoilt:
            raise self._lost()
        return 0

    def back_to(self, step: int) -> int:
        """Reads the save of a step; later ones, from which a replay has failed, are set aside.

        Returns the step of the save that was read, an earlier one where that is damaged.
        """
        self._due = False
        for folder in reversed(self.saver.world.alone_first(self._kept)):
            if _step(folder) > step:
                self._set_aside(folder, "led to the same failure again")
        if not (reached := self.restore()):
            raise self._lost()
        return reached

    def _kept(self) -> list[Path]:
        return saves(self.saver.state)[-self.saver.keep :]

    def _set_aside(self, folder: Path, why: str) -> Path:
        aside = self.saver.world.alone_first(lambda: set_aside(folder))
        self.journal.warn(f"{folder} {why}; set aside as {aside.name}, the save before it is used")
        return aside

    def _finite(self) -> bool:
        """Whether all that a save holds is finite on every process; costs a pass over it."""
        own = [local(tensor) for tensor in self.engine.state().values()]
        # The largest value and not the sum of squares, which may exceed what float32 holds though no number does.
        sizes = torch._foreach_norm([tensor for tensor in own if tensor.numel()], math.inf)
        return all(self.saver.world.gathered(bool(torch.stack(sizes).isfinite().all())))

    def _lost(self) -> CheckpointError:
        error = CheckpointError(
            f"{self.saver.state} holds no save that is whole and finite",
            remedy="run the same command again: it starts from the first step",
        )
        error.everywhere = True
        return error


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
