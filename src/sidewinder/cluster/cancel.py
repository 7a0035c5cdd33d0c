"""Ending the jobs of a run for good: what the queue starts again by itself, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sidewinder.cluster.ledger import Ledger
from sidewinder.cluster.submit import LAUNCHERS
from sidewinder.graph import Stage


def cancel(stages: Iterable[Stage]) -> Iterator[str]:
    """Cancels every job of these stages; yields what was done. A controller that waits for one stops with an error."""
    for stage in stages:
        ledger = Ledger(stage.folder)
        left = ledger.open_submission()
        job = left.job if left else None
        launcher = LAUNCHERS[left.launcher]() if left else None
        if left and launcher and job is None:
            known = {entry.job for entry in ledger.submissions() if entry.job}
            job = launcher.find(left, known, ledger.folder)
        if left is None or launcher is None or job is None:
            yield f"{stage.title}: has no job"
            continue
        # First the reason, then the deed: whoever sees the job end knows that nobody wants a new one.
        ledger.write("cancelled", submission=left.number, job=job)
        launcher.cancel(job, left)
        yield f"{stage.title}: job {job} is cancelled; its saves stay, and the next run of the study goes on from them"
