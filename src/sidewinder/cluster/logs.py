"""What a run's job wrote."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from sidewinder.cluster.ledger import Ledger, log_path
from sidewinder.errors import ConfigError
from sidewinder.graph import Graph, Stage

FOLLOW_S = 0.5
TAIL_BYTES = 1 << 18


def newest_log(graph: Graph, stages: Iterable[Stage], task: int) -> Path:
    """The log that was written last: of a job's task or, where a stage ran in the workflow itself, the rule's.

    Raises ConfigError where there is none.
    """
    listed = list(stages)
    found = [path for stage in listed for path in _logs(graph, stage, task) if path.is_file() and path.stat().st_size]
    if not found:
        names = ", ".join(stage.title for stage in listed)
        raise ConfigError(
            f"no log of {names}, task {task}", remedy="wait until it has started; see `sidewinder status`"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def _logs(graph: Graph, stage: Stage, task: int) -> list[Path]:
    ledger = Ledger(stage.folder)
    jobs = [entry.job for entry in ledger.submissions() if entry.job]
    rule = graph.results / "logs" / f"{stage.run}-{stage.name}.log"
    return [log_path(ledger.folder, job, task) for job in jobs] or [rule]


def show_log(path: Path, lines: int, *, follow: bool) -> None:
    """Prints the last lines; then, with `follow`, what is added, until it is interrupted."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
        last = stream.read().decode(errors="replace").splitlines()[-lines:]
        print("\n".join(last), flush=True)
        while follow:
            added = stream.read()
            if added:
                sys.stdout.write(added.decode(errors="replace"))
                sys.stdout.flush()
            time.sleep(FOLLOW_S)
