"""TensorBoard and Weights & Biases as further readers of the rows that metrics.jsonl gets; that file stays the truth.

    <stage folder>/tensorboard/     events.out.tfevents.…
    <stage folder>/wandb/           what W&B keeps beside its server, or instead of it (WANDB_MODE=offline)

Where a writer cannot begin, the stage does not either. One that fails later is dropped with a warning: training does
not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from sidewinder.errors import ConfigError
from sidewinder.train.metrics import RESTARTS

NO_NUMBERS = ("event", "step", "time")


class Writer(Protocol):
    """One place where metrics go."""

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step's row."""

    def event(self, event: str, fields: Mapping[str, Any]) -> None:
        """Anything else that metrics.jsonl is told."""

    def close(self) -> None: ...


class TensorBoard:
    """Scalars by the names of the rows' fields; events with a message as text."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make, self._folder = SummaryWriter, folder / "tensorboard"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer: Any = None

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._opened().add_scalar(name, value, step)

    def event(self, event: str, fields: Mapping[str, Any]) -> None:
        if event in RESTARTS:  # What was shown beyond this step no longer counts.
            self.close()
            self._writer = self._make(str(self._folder), purge_step=fields["from_step"] + 1, flush_secs=30)
        if "message" in fields:
            self._opened().add_text(event, fields["message"], fields.get("step"))

    def _opened(self) -> Any:
        """The present file; a new one for what is told before training begins, say of a damaged save."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), flush_secs=30)
        return self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """One W&B run a stage, which all its attempts go on with; the step is a field, so that repeated ones are kept."""

    def __init__(self, folder: Path, study: str, title: str, identity: str) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project=study,
                name=title,
                id=identity[:16],
                dir=str(folder),
                resume="allow",
                config={"identity": identity},
                settings=wandb.Settings(console="off"),
            )
        except wandb.errors.Error as error:
            raise ConfigError(
                f"training.writers: W&B cannot begin a run: {error}",
                remedy="run `wandb login`, set WANDB_MODE=offline, or take wandb out of training.writers",
            ) from error
        self._run.define_metric("*", step_metric="step")

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({"step": step, **numbers})

    def event(self, event: str, fields: Mapping[str, Any]) -> None:
        if "message" in fields:
            place = {"step": fields["step"]} if "step" in fields else {}
            self._run.log({f"event/{event}": fields["message"], **place})

    def close(self) -> None:
        self._run.finish()


class Writers:
    """All writers of a stage; `write` takes what `MetricsWriter.write` takes."""

    def __init__(self, named: Mapping[str, Writer], warn: Callable[[str], None]) -> None:
        self._writers, self._warn = dict(named), warn

    def write(self, event: str, **fields: Any) -> None:
        """Hands an event on. A writer that fails, for whatever reason of its own, is dropped with a warning."""
        for name in list(self._writers):
            self._guarded(name, lambda writer: _hand(writer, event, fields))

    def _guarded(self, name: str, use: Callable[[Writer], None]) -> None:
        try:
            use(self._writers[name])
        except Exception as error:
            del self._writers[name]  # First: the warning is an event itself.
            self._warn(f"{name} gets no more metrics: {type(error).__name__}: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._writers):
            self._guarded(name, lambda writer: writer.close())


def open_writers(
    names: Sequence[str], folder: Path, *, study: str, title: str, identity: str, warn: Callable[[str], None]
) -> Writers:
    """Writers of a stage by their names in `training.writers`.

    Raises ConfigError as `check_writers`, or one that says why one of them cannot begin.
    """
    names = list(dict.fromkeys(names))
    check_writers(names)
    make: dict[str, Callable[[], Writer]] = {
        "tensorboard": lambda: TensorBoard(folder),
        "wandb": lambda: Wandb(folder, study, title, identity),
    }
    return Writers({name: make[name]() for name in names}, warn)


def check_writers(names: Sequence[str]) -> None:
    """Raises ConfigError that names every writer whose package is not installed."""
    if missing := [name for name in names if not _installed(name)]:
        raise ConfigError(
            f"training.writers: not installed: {', '.join(missing)}",
            remedy=f"pip install {' '.join(missing)}, or take them out of training.writers",
        )


def _installed(name: str) -> bool:
    """Whether a package can be imported; a mere folder of its name, such as W&B leaves, has no origin."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def _hand(writer: Writer, event: str, fields: Mapping[str, Any]) -> None:
    if event != "step":
        writer.event(event, fields)
        return
    numbers = {name: value for name, value in fields.items() if name not in NO_NUMBERS and _is_number(value)}
    writer.step(fields["step"], numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
