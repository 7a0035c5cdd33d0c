"""How training stages become jobs. Where jobs run (account, partition, time limits, GPUs of a node) is in slurm/."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sidewinder.config.base import Count, Strict

Launcher = Literal["auto", "slurm", "local", "debug"]


class Cluster(Strict):
    """Launching and watching training stages; nothing here changes a result."""

    launcher: Launcher = "auto"
    """auto: Slurm jobs with `--profile slurm`; else processes of this machine. debug: in one process, with a debugger
    where it fails."""
    attempts: Count = 3
    """Failures in a row that leave no newer save, after which a stage is given up."""
    notice_s: Annotated[int, Field(ge=10)] | None = None
    """How long before its time limit a job stops to save; null: from the measured time of its saves and steps."""
    poll_s: Annotated[float, Field(gt=0)] = 15.0
    """How often a waiting stage asks Slurm for its job."""
