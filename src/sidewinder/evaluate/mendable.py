"""What can be mended without changing a suite: data that is not at hand, a network that is down, memory that is short.

A suite that lacks something for such a reason is not finished: its other tasks are done and kept, and the job fails, so
that the same command later does what is left. What follows from the suite itself, such as a task that does not exist or
columns that a task does not read, is written into the record as missing instead: asking again would not help.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidewinder.errors import EvaluationError

NETWORK = {"httpcore", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3"}
"""Packages whose errors tell of a hub that cannot be reached, or not now."""


class Mendable(EvaluationError):
    """A unit lacks something that the same suite may have at another time."""


class OutOfMemory(Mendable):
    """A unit needs more memory than there is."""


def can_be_mended(error: BaseException) -> bool:
    """Whether an error that a task's loader raised tells of the machine or the network rather than of the task."""
    if "Couldn't find cache" in str(error):  # A ValueError of `datasets`, where it is told to stay offline.
        return True
    kinds = (OSError, ImportError, MemoryError, Mendable)
    return any(
        isinstance(link, kinds) or ran_out_of_memory(link) or NETWORK & {_package(kind) for kind in type(link).__mro__}
        for link in _chain(error)
    )


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of a device's or the machine's memory; torch has no class for the latter."""
    import torch  # Here, because what reads data folders takes its errors from this module, and needs no torch.

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _package(kind: type) -> str:
    return kind.__module__.split(".")[0]
