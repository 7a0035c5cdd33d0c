"""Processes that are slower than the others. One of them holds back all, because every step waits for the last.

In a synchronous step all processes take the same time, the fast ones waiting inside collective operations. So what is
compared must be time that each spends alone: `probe_s`, and waiting for data.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median_low

import torch

SLOWER = 1.2
"""A straggler takes more than this many times the median."""
WORTH_TELLING = 0.05
"""Share of the time below which waiting for data holds nobody back."""
PROBE_SIZE, PROBE_PRODUCTS = 2048, 20


def stragglers(seconds_by_rank: Sequence[float], slower: float = SLOWER) -> list[int]:
    """Ranks that take more than `slower` times the median of all (the lower one where their number is even)."""
    limit = slower * median_low(seconds_by_rank)
    return [rank for rank, seconds in enumerate(seconds_by_rank) if seconds > limit]


def late_for_data(waits_s: Sequence[float], elapsed_s: float, slower: float = SLOWER) -> list[int]:
    """Ranks that wait for data longer than the others, and long enough to matter, in a stretch of so many seconds."""
    return [rank for rank in stragglers(waits_s, slower) if waits_s[rank] > WORTH_TELLING * elapsed_s]


class StragglerWatch:
    """Tells stragglers at most once in `every_steps` steps."""

    def __init__(self, every_steps: int = 1000, slower: float = SLOWER) -> None:
        self.every_steps, self.slower = every_steps, slower
        self._told_at: int | None = None

    def check(self, step: int, seconds_by_rank: Sequence[float]) -> list[int]:
        """Ranks to warn of now; empty where there are none, or where a warning was given not long ago."""
        if self._told_at is not None and 0 <= step - self._told_at < self.every_steps:
            return []
        found = stragglers(seconds_by_rank, self.slower)
        if found:
            self._told_at = step
        return found


def probe_s(device: torch.device) -> float:
    """Seconds that this process alone takes for a fixed piece of arithmetic (on an H200, about a millisecond).

    Shows a GPU that runs at a lower clock than the others, or a core that is shared. Takes 24 MiB on a GPU.
    """
    gpu = device.type == "cuda"
    size = PROBE_SIZE if gpu else PROBE_SIZE // 8
    x = torch.ones(size, size, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    out = x @ x  # Not timed: the first product may choose and load a kernel.
    _wait(device)
    started = time.perf_counter()
    for _ in range(PROBE_PRODUCTS):
        torch.mm(x, x, out=out)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
