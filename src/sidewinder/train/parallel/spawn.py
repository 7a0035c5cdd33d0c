"""The processes of one machine, started and watched by torch's elastic agent."""

from __future__ import annotations

import logging
import sys
import uuid

from sidewinder.errors import SidewinderError


class RankFailed(SidewinderError):
    """One of several processes ended; the others were ended with it."""


def spawn(processes: int, command: list[str], goes_on: str = "from the newest save") -> None:
    """Runs `python -m sidewinder <command>` as so many ranks on this machine, and waits for them.

    Raises RankFailed, naming the rank that failed first (the others are ended with it, within a minute), or where this
    process is told to stop, which it tells its ranks: they save their state first.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # We tell what happened ourselves.
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
    )
    again = f"run the same command again: it goes on {goes_on}"
    try:
        elastic_launch(config, sys.executable)("-m", "sidewinder", *command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = f"by {failure.signal_name()}" if failure.exitcode < 0 else f"with status {failure.exitcode}"
        raise RankFailed(
            f"rank {rank} of {processes} (process {failure.pid}) ended {how}; the other ranks were ended with it",
            remedy=f"see its message above, then {again}",
        ) from None
    except SignalException as error:
        raise RankFailed(f"stopped by {error.sigval.name}; so were all ranks", remedy=again) from None
