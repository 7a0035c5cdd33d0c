"""Where and how exactly a stage computes: device, threads, determinism, precision, memory in use."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import torch

from sidewinder.config.training import Training
from sidewinder.errors import ConfigError
from sidewinder.ops.memory import keep_freed_memory
from sidewinder.train.gpu import own_gpu

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def prepare_torch(training: Training) -> torch.device:
    """Sets threads and determinism for the process and returns the device of a stage.

    Raises ConfigError where the configured device is not there, or cannot do what is asked of it.
    """
    keep_freed_memory()
    torch.set_num_threads(training.threads)
    with suppress(RuntimeError):  # Only possible once a process; no result depends on it.
        torch.set_num_interop_threads(1)
    if training.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device is cuda, but torch sees no GPU here", remedy="use `auto` or `cpu`")
    on_cpu = training.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and training.compile:
        # The operations' CPU forms write into buffers in ways that the compiler does not follow.
        raise ConfigError("training.compile is for GPUs, and this stage computes on a CPU", remedy="set it to false")
    if on_cpu or training.deterministic:
        _be_deterministic()
    if on_cpu:
        return torch.device("cpu")
    device = torch.device("cuda", own_gpu(torch.cuda.device_count()))
    torch.cuda.set_device(device)
    return device


def prepare_inference(training: Training) -> torch.device:
    """As `prepare_torch`, to evaluate what the stage trained: on a GPU if there is one, and without compiling.

    A stage that was told to train on a CPU is evaluated on one.
    """
    device = "cpu" if training.device == "cpu" else "auto"
    return prepare_torch(training.model_copy(update={"compile": False, "device": device}))


def _be_deterministic() -> None:
    """The same bits on every run: on a CPU at no cost, on a GPU with slower kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this.
    # The same as use_deterministic_algorithms(True), without its import of the compiler (0.8 s of each start).
    torch.set_deterministic_debug_mode("error")
    # A debugging aid, on by default, that fills every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def precision(training: Training, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass: for bfloat16, autocast over weights that stay in float32.

    Its cache would keep a copy of every weight to the end of the pass, though each is used once; where layers are
    recomputed, those copies are two bytes a parameter of the most that a step holds.
    """
    wanted = training.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)


def memory_bytes(device: torch.device) -> int:
    """Peak memory of the GPU's allocator; on a CPU, resident memory of the process (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE_BYTES
