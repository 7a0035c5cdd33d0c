"""The training loop: step after step, and what happens between two of them.

Steps are counted from 1; a save of step s holds the state after it. Everything that the next step depends on is in the
save (weights, optimizer state, s) or is a pure function of s (data, learning rate): that is why a resumed run gives
the same bits as an undisturbed one. The same loop runs alone and as one of many processes; all of them agree on what to
do between two steps from numbers that they exchange once a step.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidewinder.config.training import Training
from sidewinder.model import LanguageModel
from sidewinder.progress import Progress
from sidewinder.train.device import memory_bytes
from sidewinder.train.ending import diverged, stopped
from sidewinder.train.engine import Batches, Engine
from sidewinder.train.exchange import Own, Sums, summed
from sidewinder.train.journal import Journal
from sidewinder.train.keeper import Keeper
from sidewinder.train.metrics import read_metrics
from sidewinder.train.parallel.world import World
from sidewinder.train.saver import Saver
from sidewinder.train.schedule import batch_sequences, learning_rate, sequences_before, tokens_after
from sidewinder.train.signals import StopSignals
from sidewinder.train.watch import Action, Decision, NonFinitePolicy, SpikeDetector, StragglerWatch, Watchdog
from sidewinder.train.watch.nonfinite import ROLLBACK, SKIP, event_fields
from sidewinder.train.watch.stragglers import late_for_data, probe_s

PROBE_EVERY_STEPS = 500
"""How often the processes compare their speed."""
PAST_LOSSES = 256
"""Losses of an earlier attempt that a jump is measured against."""


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
    study: str = "sidewinder"

    def __post_init__(self) -> None:
        training = self.training
        self.engine = Engine(self.model, self.batches, training, self.world)
        self.journal = Journal(self.title, self.folder, self.identity, self.world.first, training.writers, self.study)
        self.saver = Saver(
            self.folder / "state",
            self.identity,
            self.world,
            keep=training.keep_saves,
            keep_every_tokens=training.keep_every_tokens,
            asynchronous=self.engine.device.type == "cuda",
            warn=self.journal.warn,
        )
        self.watchdog = Watchdog(training.hang_timeout_s, self.folder, self.world.rank, tell=self._hangs)
        self.keeper = Keeper(self.saver, self.engine, self.journal, self.watchdog.beat)
        self.policy = NonFinitePolicy(training.non_finite)
        self.stop = StopSignals()

    def run(self) -> None:
        """Trains from the newest good save, or from the first step.

        Raises TrainingDiverged (loss, gradient or weights that are not finite, beyond what `training.non_finite`
        forgives), TrainingStopped (a signal; the state is saved unless it is not finite) and CheckpointError (the disk
        is full or not writable, no save is left to go back to).
        """
        with closing(self.journal), self.stop, self.watchdog:
            self.world.together(self.journal.open)
            total, step = self.training.steps, self._resume()
            with Progress(self.title, total=total, unit="step", done=step, silent=not self.world.first) as progress:
                while step < total:
                    step = self._advance(step + 1, progress)
            self.journal.log("end", step=total)

    def compute(self, step: int) -> tuple[Sums, Decision]:
        """A step but for what is told of it: gradients, their exchange, a decision, and the update it allows."""
        self.watchdog.beat(step)
        loss = self.engine.gradients(step, self.watchdog.beat)
        waited_s, memory = self.engine.meter.waited_s, memory_bytes(self.engine.device)
        own = Own(self.stop.numbers, self.keeper.writing, memory, waited_s)
        sums = summed(*self.engine.exchange(loss, own.numbers(self.world)), self.world.size)
        decision = self._decide(step, sums)
        if decision.action is Action.PROCEED:
            self.engine.update(step, sums.norm)
        self.engine.clear()
        return sums, decision

    def _resume(self) -> int:
        """Restores the newest good save and what the watchers knew; returns the save's step, 0 for none."""
        step = self.keeper.restore()
        spent, losses = self.world.alone_first(lambda: self._past(step))
        self.policy = NonFinitePolicy(self.training.non_finite, spent)
        self.spikes = SpikeDetector(losses=losses)
        self.stragglers = StragglerWatch()
        self.journal.begin(step, self.world.size)
        if step:
            self.journal.tell(f"{self.title}: goes on from step {step:,} of {self.training.steps:,}")
        return step

    def _past(self, step: int) -> tuple[list[dict[str, Any]], list[float]]:
        """What earlier attempts spent of the budget for steps that are not finite, and their last losses."""
        metrics = read_metrics(self.journal.path)
        spent = [event for event in metrics.events if event["event"] in (SKIP, ROLLBACK)]
        return spent, [row["loss"] for row in metrics.steps if row["step"] <= step][-PAST_LOSSES:]

    def _advance(self, step: int, progress: Progress) -> int:
        """Makes a step, or does what is to be done about one that cannot be made; returns the step reached."""
        started = time.perf_counter()
        sums, decision = self.compute(step)
        if decision.action is Action.PROCEED:
            row = self._row(step, sums, time.perf_counter() - started)
            self.journal.log("step", **row)
            _show(progress, row)
        elif decision.action is Action.SKIP:
            self._tell_of(SKIP, step, sums, decision)
        else:
            return self._go_back(step, sums, decision, progress)
        if not self._after(step, sums):
            return self._go_back(step, sums, self.policy.spoilt(step, self.keeper.kept()), progress)
        progress.update(1)
        return step

    def _row(self, step: int, sums: Sums, step_s: float) -> dict[str, Any]:
        """What metrics.jsonl says of a step."""
        tokens = batch_sequences(self.training, step) * self.training.context_tokens
        return {
            "step": step,
            "tokens": tokens_after(self.training, step),
            "loss": sums.loss,
            "learning_rate": learning_rate(self.training, step),
            "gradient_norm": sums.norm,
            "step_s": round(step_s, 6),
            **self.engine.meter.fields(tokens=tokens, step_s=step_s, loss=sums.loss, waited_s=sums.waited_s),
            "memory_bytes": sums.memory_bytes,
        }

    def _decide(self, step: int, sums: Sums) -> Decision:
        """What becomes of a step; all processes decide alike, since they know the same numbers."""
        if math.isfinite(sums.loss) and math.isfinite(sums.norm):
            return self.policy.decide(step, sums.loss, sums.norm)
        self.keeper.finish()
        last = step == self.training.steps
        return self.policy.decide(step, sums.loss, sums.norm, self.keeper.kept(), last=last)

    def _go_back(self, step: int, sums: Sums, decision: Decision, progress: Progress) -> int:
        """Goes back to the save that the policy chose, and returns its step; raises TrainingDiverged where it stops."""
        if decision.action is Action.STOP:
            where = f"data position {self._position(step)}"
            error = diverged(self.title, self.training, step, sums, decision, where, self.keeper.newest())
            self.journal.log("stop", step=step, message=error.message)
            raise error
        reached = self.keeper.back_to(decision.back_to)
        self._tell_of(ROLLBACK, step, sums, decision, from_step=reached)
        progress.done = reached
        return reached

    def _tell_of(self, event: str, step: int, sums: Sums, decision: Decision, **more: Any) -> None:
        fields = event_fields(step, sums.loss, sums.norm, decision)
        self.journal.tell(f"warning: {self.title}: {event} at step {step:,}: loss {sums.loss:g}: {decision.reason}")
        self.journal.log(event, **fields, **more)

    def _after(self, step: int, sums: Sums) -> bool:
        """Between two steps: look about, save where it is time to, stop where it was asked for.

        Returns False where it was time to save, and the weights turned out to be spoilt.
        """
        self._look_about(step, sums)
        if sums.saved:
            self.keeper.finish()
        last, sound = step == self.training.steps, True
        ends = last or sums.signal is not None
        # While steps are skipped, the weights may be what is wrong, finite as they are: where it can, a save waits.
        if (self.keeper.due(step) and not self.policy.in_a_row) or ends:
            sound = self.keeper.save(step, wait=ends)
        if sums.signal and not last:
            newest = self.keeper.newest()
            error = stopped(self.title, self.training, step, sums.signal, sound=sound, newest=newest)
            self.journal.log("stop", step=step, message=error.message)
            raise error
        return sound

    def _look_about(self, step: int, sums: Sums) -> None:
        """Warns of a loss that jumps, and of processes that are slower than the others."""
        if (deviations := self.spikes.observe(sums.loss)) is not None:
            message = f"the loss of step {step:,}, {sums.loss:.3f}, is {deviations:.1f} deviations above the last ones"
            self.journal.warn(f"{self.title}: {message}; data position {self._position(step)}")
        if self.world.size > 1 and step % PROBE_EVERY_STEPS == 0:
            self._compare(step)

    def _compare(self, step: int) -> None:
        """Warns of processes whose GPU, or whose disk, is slower than the others'."""
        elapsed_s, waited_s = self.engine.meter.data_stretch()
        told = self.world.gathered((probe_s(self.engine.device), waited_s))
        slow = self.stragglers.check(step, [probe for probe, _ in told])
        late = late_for_data([waited for _, waited in told], elapsed_s)
        for ranks, what in ((slow, "slower than the others"), (late, "waiting longer for data than the others")):
            if ranks:
                self.journal.warn(f"{self.title}: {what}: rank {', '.join(map(str, ranks))}")

    def _hangs(self, message: str) -> None:
        self.journal.log("hang", message=message)

    def _position(self, step: int) -> str:
        return json.dumps(self.batches.position(sequences_before(self.training, step)), sort_keys=True)


def _show(progress: Progress, row: dict[str, Any]) -> None:
    """`… 120/300 step 40 % | loss 5.214 | lr 1.0e-03 | 9.8k tok/s | 412 MiB | ETA 0:45`."""
    # A field is shown as key and value; speed and memory read better with the number first.
    progress.fields = {
        "loss": f"{row['loss']:.3f}",
        "lr": f"{row['learning_rate']:.1e}",
        f"{row['tokens_per_s'] / 1000:.1f}k": "tok/s",
        f"{row['memory_bytes'] / 2**20:,.0f}": "MiB",
    }
