"""The processes of one machine, started and watched by torch's elastic agent."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import uuid
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sidewinder.errors import SidewinderError

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig


class RankFailed(SidewinderError):
    """One of several processes ended; the others were ended with it."""


LAUNCHER = "SIDEWINDER_LAUNCHER"
"""The variable that tells a rank which process started it."""
STOP_S = 30
"""So long a rank may take to end once it is told to."""
SAVING_S = 86_400
"""The same for one that saves first; the watchdog ends it long before where it hangs."""
PR_SET_PDEATHSIG = 1
"""Of prctl(2): which signal to get when the process that started this one ends."""


def spawn(processes: int, command: list[str], goes_on: str = "from the newest save", stop_s: int = STOP_S) -> None:
    """Runs `python -m sidewinder <command>` as so many ranks on this machine, and waits for them.

    Raises RankFailed, naming the rank that failed first (the others are ended with it, within a minute), or where this
    process is told to stop, which it tells its ranks: they may save their state first, and are killed after `stop_s`.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # We tell what happened ourselves.
    again = f"run the same command again: it goes on {goes_on}"
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        elastic_launch(_config(processes, stop_s), sys.executable)("-m", "sidewinder", *command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = f"by {failure.signal_name()}" if failure.exitcode < 0 else f"with status {failure.exitcode}"
        raise RankFailed(
            f"rank {rank} of {processes} (process {failure.pid}) ended {how}; the other ranks were ended with it",
            remedy=f"see its message above, then {again}",
        ) from None
    except SignalException as error:
        raise RankFailed(f"stopped by {error.sigval.name}; so were all ranks", remedy=again) from None
    finally:
        del os.environ[LAUNCHER]


def follow_launcher() -> None:
    """Lets a rank that `spawn` started end with its launcher, however that ends: SIGTERM, so that it saves first.

    Without it, ranks of a launcher that was killed would train on, and hold the folder that the next start needs.
    Processes that torchrun, Slurm or a person started are left alone.
    """
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(launcher):  # It ended before we could ask.
        sys.exit(1)


def _config(processes: int, stop_s: int) -> LaunchConfig:
    from torch.distributed.launcher.api import LaunchConfig

    options: dict[str, Any] = {}
    if "shutdown_timeout" in {field.name for field in fields(LaunchConfig)}:
        options["shutdown_timeout"] = stop_s
    else:
        _stop_after(stop_s)
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
        **options,
    )


def _stop_after(stop_s: int) -> None:
    """As `shutdown_timeout`, for torch 2.11, which has no such setting: it always waits half a minute.

    A signal is named where this process was told to stop; after a rank's failure none is, and the limit stays.
    """
    from torch.distributed.elastic.multiprocessing.api import PContext

    close = PContext.close

    def close_later(context: PContext, death_sig: signal.Signals | None = None, timeout: int = STOP_S) -> None:
        close(context, death_sig, timeout if death_sig is None else stop_s)

    PContext.close = close_later  # type: ignore[assignment,method-assign]
