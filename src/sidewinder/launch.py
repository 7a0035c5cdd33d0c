"""Starting a study: the checks before any work, the guard against two controllers, the live view, the summary."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sidewinder.config import load_study
from sidewinder.errors import ConfigError
from sidewinder.graph import Graph
from sidewinder.progress import duration

FREE_BYTES = 500_000_000
PATIENCE_S = 30
_claims: list[IO[str]] = []  # Open for the life of the process: the kernel frees the lock when it ends.


def check_study(graph: Graph) -> None:
    """Raises ConfigError for what would stop the study later: absent sources or packages, results not writable."""
    from sidewinder.corpus.check import check_sources
    from sidewinder.train.writers import check_writers

    check_sources(graph.study)
    check_writers(graph.study.training.writers)
    results = graph.results
    existing = next(folder for folder in [results.absolute(), *results.absolute().parents] if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"results: cannot write to {existing}", remedy="name another folder in `results`")
    if (free := shutil.disk_usage(existing).free) < FREE_BYTES:
        raise ConfigError(
            f"results: {existing} has {free / 1e9:.2f} GB free, less than {FREE_BYTES / 1e9:.1f} GB",
            remedy="free some space, or name a folder on another disk in `results`",
        )


def claim_results(graph: Graph) -> None:
    """Makes this process the only controller of a results folder for as long as it lives.

    Waits a little for one that is just ending, then raises ConfigError.
    """
    graph.results.mkdir(parents=True, exist_ok=True)
    claim = (graph.results / ".controller").open("a+")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                claim.seek(0)
                raise ConfigError(
                    f"results: process {claim.read() or '?'} is already running a study in {graph.results}",
                    remedy="wait for it, stop it, or name another folder in `results`",
                ) from None
            time.sleep(0.5)
    claim.truncate(0)
    claim.write(str(os.getpid()))
    claim.flush()
    _claims.append(claim)


def run_study(config: Path, cores: str) -> int:
    """Runs Snakemake on a study with a live view on a terminal; returns its exit status."""
    graph = Graph(load_study(config))
    check_study(graph)
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--configfile", str(config)]
    # Rules call `sidewinder`: the one of this environment, activated or not.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if not sys.stdout.isatty():
        return subprocess.run(command, env=environment, preexec_fn=_end_with_parent, check=False).returncode
    folder = graph.results / ".progress"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = graph.results / "logs" / "study.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment["SIDEWINDER_PROGRESS"] = str(folder.absolute())
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, preexec_fn=_end_with_parent
        )
        status = _watch(process, graph, folder)
    console = Console()
    if status:
        tail = log.read_text(errors="replace").splitlines()[-30:]
        console.print("\n".join(tail), markup=False, highlight=False)
        console.print(f"[bold red]the study stopped[/]; the whole log is {log}; run the same command to go on")
    else:
        console.print(summary(graph), highlight=False)
    return status


def summary(graph: Graph) -> str:
    """The last lines of a study: where the report is and how to ask questions."""
    return (
        f"study {graph.study.study}: {len(graph.records)} jobs done\n"
        f"  report:  {graph.report}\n"
        f"  catalog: {graph.catalog}   (sidewinder query leaderboard)"
    )


def _end_with_parent() -> None:
    """Asks the kernel to interrupt this process when its parent dies (Linux prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGINT)


def _watch(process: subprocess.Popen[bytes], graph: Graph, folder: Path) -> int:
    started = time.monotonic()
    with Live(console=Console(), refresh_per_second=2) as live:
        while True:
            try:
                status = process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                live.update(_view(graph, folder, time.monotonic() - started))
                continue
            except KeyboardInterrupt:  # Snakemake gets the same Ctrl-C and stops its jobs.
                continue
            live.update(_view(graph, folder, time.monotonic() - started))
            return status


def _view(graph: Graph, folder: Path, seconds: float) -> Group:
    """All jobs as one bar, and a line for each that runs."""
    records = graph.records
    done = sum(record.is_file() for record in records)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text(f"study {graph.study.study}", style="bold"),
        ProgressBar(total=len(records), completed=done, width=30),
        f"{done}/{len(records)} jobs",
        duration(seconds),
    )
    lines = [Text(state["line"], no_wrap=True, overflow="ellipsis") for state in _running(folder)]
    return Group(bar, *lines)


def _running(folder: Path) -> list[dict[str, Any]]:
    states = []
    for path in sorted(folder.glob("*.json")):
        try:
            state = json.loads(path.read_text())
            os.kill(state["pid"], 0)
        except (OSError, ValueError):  # Just ended, or being replaced.
            continue
        states.append(state)
    return states
