"""Times of GPU work and the name of the machine, for the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

WARM_UPS, RUNS = 3, 20


def machine() -> str:
    """The GPU's name, as PyTorch gives it, or CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def milliseconds(call: Callable[[], object], runs: int = RUNS) -> float:
    """Median over runs, each between two events, after one that is not counted."""
    call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events)


def graph_milliseconds(call: Callable[[], object], runs: int = RUNS) -> float:
    """Median over replays of one recorded call, so that gaps between launches do not count."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return milliseconds(graph.replay, runs)


def host_milliseconds(call: Callable[[], object], runs: int = 5) -> float:
    """Time for the processor to launch a call, the GPU's own time left out."""
    call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(runs):
        call()
    elapsed = time.perf_counter() - start
    torch.cuda.synchronize()
    return elapsed / runs * 1e3


def copy_bandwidth() -> float:
    """Bytes a second of a large copy, read and written bytes both counted."""
    source, target = (torch.empty(1 << 30, dtype=torch.int32, device="cuda") for _ in range(2))
    source.random_()
    moved = 2 * source.numel() * source.element_size()
    return moved / milliseconds(lambda: target.copy_(source)) * 1e3
