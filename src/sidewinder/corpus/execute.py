"""Runs a datatrove pipeline on this machine with a progress line, and adds up what its steps counted."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

import sidewinder.corpus.quiet  # noqa: F401
from sidewinder.errors import DataError
from sidewinder.progress import Progress

ORPHAN_POLL_S = 0.5


class Executor(LocalPipelineExecutor):
    """datatrove's local executor with processes that end when this one does.

    datatrove's own `run` starts a manager process that outlives a killed parent and, being a fork, holds its lock
    files; and its pool waits for ever for a worker that was killed. The tasks and their marks are datatrove's.
    """

    pipeline: list[PipelineStep]

    def ranks(self) -> Iterator[int]:
        """Runs every task that has no mark, and yields its number when it is done."""
        waiting = self.get_incomplete_ranks()
        if self.workers == 1:
            pipeline = self.pipeline
            for rank in waiting:
                self.pipeline = deepcopy(pipeline)
                self._run_for_rank(rank)
                yield rank
            return
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.workers, mp_context=spawn, initializer=_end_with, initargs=(os.getpid(),))
        try:
            futures = {pool.submit(self._run_for_rank, rank): rank for rank in waiting}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            pool.shutdown(cancel_futures=True)


def execute(
    name: str, pipeline: list[PipelineStep], folder: Path, *, tasks: int, workers: int, resume: bool = True
) -> Counter[str]:
    """Runs `tasks` tasks on at most `workers` processes and returns the sum of every statistic of every step.

    `folder` keeps datatrove's logs and its marks of finished tasks; with `resume`, a task that has a mark is not run
    again, so the folder must belong to this very work. An error in a task is raised here.
    """
    executor = Executor(
        pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=str(folder), skip_completed=resume
    )
    with Progress(name, total=tasks, unit="tasks", done=tasks - len(executor.get_incomplete_ranks())) as progress:
        try:
            for _ in progress.over(executor.ranks()):
                pass
        except BrokenProcessPool:
            raise DataError(
                f"{name}: a worker process was killed, most likely for lack of memory",
                remedy="run the study again with fewer workers; finished tasks are kept",
            ) from None
    return _totals(folder / "stats", tasks)


def _totals(folder: Path, tasks: int) -> Counter[str]:
    """Sums the statistics that every task left, those of an interrupted earlier run included."""
    totals: Counter[str] = Counter()
    for rank in range(tasks):
        for step in json.loads((folder / f"{rank:05d}.json").read_text()):
            for label, value in step["stats"].items():
                totals[label] += int(value["total"] if isinstance(value, dict) else value)
    return totals


def _end_with(parent: int) -> None:
    """In a worker: leaves when the parent is gone, which a killed parent cannot ask for."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
