"""Where every stage of a study stands: read from its files and from the queue, with no server."""

from __future__ import annotations

import fcntl
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sidewinder.cluster.ledger import Ledger
from sidewinder.cluster.slurm import JobState, queue
from sidewinder.cluster.standing import standing
from sidewinder.cluster.submit import LAUNCHERS
from sidewinder.errors import ClusterError
from sidewinder.graph import Graph, Stage
from sidewinder.progress import duration

REFRESH_S = 5.0
QUIET_S = 120
COLUMNS = ("run", "stage", "state", "step", "loss", "tok/s", "ETA", "job", "attempts")
RIGHT = {"step", "loss", "tok/s", "ETA", "attempts"}


@dataclass(frozen=True)
class Row:
    """One stage, as texts in the order of COLUMNS."""

    cells: tuple[str, ...]
    running: bool


def rows(graph: Graph) -> list[Row]:
    """Every training stage of a study, parents before children."""
    ledgers = {stage.folder: Ledger(stage.folder) for stage in graph.stages}
    on_slurm = any((left := ledger.open_submission()) and left.launcher == "slurm" for ledger in ledgers.values())
    queued = queue() if on_slurm else {}
    return [_row(stage, ledgers[stage.folder], queued) for stage in graph.stages]


def _row(stage: Stage, ledger: Ledger, queued: dict[str, JobState]) -> Row:
    found = standing(stage.folder / "metrics.jsonl")
    left, attempts = ledger.open_submission(), ledger.attempts()
    job, state = "", _state_without_job(stage, ledger)
    if stage.record.is_file():
        state = "finished"
        job = next((str(entry.job) for entry in reversed(ledger.submissions()) if entry.job), "")
    elif left:
        seen = queued.get(left.job or "") or _ask(left.launcher, left)
        job, state = left.job or "?", str(seen)
    running = state.startswith("running")
    total, step_s = stage.training.steps, found.step_s
    step = total if state == "finished" else found.step
    eta = duration(step_s * (total - step)) if running and step_s else ""
    if running and found.time and (quiet := time.time() - found.time) > max(QUIET_S, 5 * (step_s or 0)):
        state += f", quiet for {duration(quiet)}"
    cut = [attempt.reason or "killed" for attempt in attempts[:-1]]
    tally = ", ".join(f"{cut.count(reason)} {reason}" for reason in dict.fromkeys(cut))
    cells = (
        f"{stage.model_name}-s{stage.seed}",
        f"{stage.kind}-{stage.training.context_tokens}",
        state,
        f"{step:,}/{total:,}",
        "" if found.loss is None else f"{found.loss:.4f}",
        f"{found.tokens_per_s:,.0f}" if running and found.tokens_per_s else "",
        eta,
        job,
        f"{len(attempts)} ({tally})" if tally else str(len(attempts) or ""),
    )
    return Row(cells, running)


def _state_without_job(stage: Stage, ledger: Ledger) -> str:
    """What is known of a stage that has no job in the queue."""
    if held(stage.folder / ".lock"):
        return "running here"
    last = next((row for row in reversed(ledger.rows()) if row["event"] in ("gave_up", "cancelled")), None)
    if last:
        return "given up" if last["event"] == "gave_up" else "cancelled"
    return "stopped" if (stage.folder / "metrics.jsonl").is_file() else "waiting"


def _ask(launcher: str, left: object) -> JobState:
    try:
        return LAUNCHERS[launcher]().state(left)  # type: ignore[arg-type]
    except (ClusterError, AssertionError):  # Not on the machine that could tell, or not submitted yet.
        return JobState("UNKNOWN")


def held(lock: Path) -> bool:
    """Whether a process of this machine holds a lock file."""
    if not lock.is_file():
        return False
    with lock.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def table(graph: Graph, *, plain: bool) -> Table:
    """All stages as a table; `plain` is for files and pipes."""
    records = graph.records
    done = sum(record.is_file() for record in records)
    title = f"study {graph.study.study}: {done} of {len(records)} jobs done, {time.strftime('%F %T')}"
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        shown.add_column(column, justify="right" if column in RIGHT else "left", no_wrap=True)
    for row in rows(graph):
        shown.add_row(*row.cells, style="" if plain or not row.running else "green")
    return shown


def show(graph: Graph, *, once: bool) -> None:
    """Prints the table once, or keeps it up to date until it is interrupted."""
    console = Console()
    if once or not console.is_terminal:
        Console(width=None if console.is_terminal else 200).print(table(graph, plain=not console.is_terminal))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(table(graph, plain=False), refresh=True)
            time.sleep(REFRESH_S)
