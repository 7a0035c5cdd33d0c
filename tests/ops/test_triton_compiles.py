"""Every Triton kernel compiles for NVIDIA's GPUs as training launches it, on a machine without one.

A driver that only names a GPU stands in for the real one, and what a step of a small model would launch is compiled
instead: types, strides, blocks and warps come from the launches themselves. Triton's package holds NVIDIA's assembler,
and the program that tells what a kernel needs.
"""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

if find_spec("triton") is None and os.environ.get("CI") != "true":
    pytest.skip("needs the package triton", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from sidewinder.config.model import Mamba1, Mamba2, ModelConfig
from sidewinder.model import LanguageModel
from sidewinder.ops import kernels, ssd_launches

SHARED_BYTES = {80: 166_912, 89: 101_376, 90: 232_448}
"""What one program may have on an A100; on an L40S or RTX 4090; on an H100 or H200."""
STACK_BYTES = 512
"""What a thread may keep in memory of that which its 255 registers do not hold; with Triton 3.7 one keeps 424."""

Launched = Callable[[int, Callable[[], object]], list["Compiled"]]


class Compiled(NamedTuple):
    """A kernel and what it needs."""

    name: str
    registers: int
    stack_bytes: int
    shared_bytes: int


def needs_of(name: str, kernel: Any, folder: Path) -> Compiled:
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack_bytes = (int(re.search(rf"{what}:(\d+)", told)[1]) for what in ("REG", "STACK"))
    return Compiled(name, registers, stack_bytes, kernel.metadata.shared)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Launched:
    """Runs a function with CPU tensors for a GPU's, and compilation for launches; returns what was compiled."""
    run, compiled = JITFunction.run, {}

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        compiled[kernel.hash] = (f"{self.__module__.rpartition('.')[2]}.{self.__name__}", kernel)

    def compile_all(capability: int, step: Callable[[], object]) -> list[Compiled]:
        target = GPUTarget("cuda", capability, 32)
        # Triton remembers kernels by the number of the device, which here is none that there is.
        device = {"get_current_device": lambda: capability, "get_current_stream": lambda _: 0}
        driver = SimpleNamespace(get_current_target=lambda: target, **device)
        monkeypatch.setattr(triton.runtime.driver, "_active", driver)
        plan = lambda x, state: ssd_launches.plan_of(x.dtype, state, SHARED_BYTES[capability])  # noqa: E731
        monkeypatch.setattr(ssd_launches, "plan_for", plan)
        step()
        return sorted(needs_of(*kernel, tmp_path) for kernel in compiled.values())

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, module in list(sys.modules.items()):
        if name.startswith("sidewinder.ops.") and hasattr(module, "on_gpu"):
            monkeypatch.setattr(module, "on_gpu", lambda x: True)
    return compile_all


def train(pattern: str, dtype: torch.dtype, state_size: int) -> None:
    """A step on packed documents, of one layer at a time; its numbers are whatever lies in memory."""
    sizes = {"mamba1": Mamba1(state_size=16), "mamba2": Mamba2(state_size=state_size)}
    for letter in pattern:
        # Mamba-2 with heads enough to fill a GPU; Mamba-1 with channels so few that time is cut into stretches.
        batch, length = (16, 20) if letter == "M" else (1, 150)
        model = LanguageModel(ModelConfig(pattern=letter, hidden_size=512, **sizes), 5000)
        tokens_BL = torch.zeros(batch, length, dtype=torch.int64)
        with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
            model.loss(tokens_BL, tokens_BL, tokens_BL == 1).backward()


def every_kernel() -> set[str]:
    modules = {
        part.name: import_module(f"{kernels.__name__}.{part.name}") for part in pkgutil.iter_modules(kernels.__path__)
    }
    return {
        f"{place}.{name}"
        for place, module in modules.items()
        for name, value in vars(module).items()
        if isinstance(value, JITFunction) and name.endswith("_kernel") and value.__module__ == module.__name__
    }


CASES = [
    (90, "Mm", torch.bfloat16, 128),
    (90, "Mm", torch.float32, 128),
    (90, "M", torch.bfloat16, 256),
    (80, "Mm", torch.bfloat16, 128),
    (80, "M", torch.float32, 128),
    (89, "M", torch.bfloat16, 128),
]


@pytest.mark.parametrize(("capability", "pattern", "dtype", "state_size"), CASES)
def test_kernels_compile_and_fit(
    launched: Launched, capability: int, pattern: str, dtype: torch.dtype, state_size: int
) -> None:
    compiled = launched(capability, lambda: train(pattern, dtype, state_size))
    print(*compiled, sep="\n")
    if pattern == "Mm":
        assert {kernel.name for kernel in compiled} == every_kernel()
    assert [kernel for kernel in compiled if kernel.shared_bytes > SHARED_BYTES[capability]] == []
    assert [kernel for kernel in compiled if kernel.stack_bytes > STACK_BYTES] == []
