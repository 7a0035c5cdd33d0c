"""Runs a datatrove pipeline on this machine with a progress line, and adds up what its steps counted."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

import sidewinder.corpus.quiet  # noqa: F401
from sidewinder.progress import Progress

POLL_S = 0.25


def execute(
    name: str, pipeline: list[PipelineStep], folder: Path, *, tasks: int, workers: int, resume: bool = True
) -> Counter[str]:
    """Runs `tasks` tasks on at most `workers` processes and returns the sum of every statistic of every step.

    `folder` keeps datatrove's logs and its marks of finished tasks; with `resume`, a task that has a mark is not run
    again, so the folder must belong to this very work. An error in a task is raised here.
    """
    executor = LocalPipelineExecutor(
        pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=str(folder), skip_completed=resume
    )
    with _watched(name, folder / "completions", tasks):
        executor.run()
    return _totals(folder / "stats", tasks)


def _totals(folder: Path, tasks: int) -> Counter[str]:
    """Sums the statistics that every task left, those of an interrupted earlier run included."""
    totals: Counter[str] = Counter()
    for rank in range(tasks):
        for step in json.loads((folder / f"{rank:05d}.json").read_text()):
            for label, value in step["stats"].items():
                totals[label] += int(value["total"] if isinstance(value, dict) else value)
    return totals


@contextmanager
def _watched(name: str, completions: Path, tasks: int) -> Iterator[None]:
    """Shows how many tasks have finished, by counting datatrove's marks from a thread."""
    done = threading.Event()

    def watch(progress: Progress) -> None:
        while not done.wait(POLL_S):
            finished = sum(1 for _ in completions.iterdir()) if completions.is_dir() else 0
            progress.update(finished - progress.done)

    with Progress(name, total=tasks, unit="tasks") as progress:
        thread = threading.Thread(target=watch, args=(progress,), daemon=True)
        thread.start()
        try:
            yield
            progress.update(tasks - progress.done)
        finally:
            done.set()
            thread.join()
