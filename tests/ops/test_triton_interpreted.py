"""Runs the kernels' tests under Triton's interpreter, which has to be asked for before Triton is first imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.skipif(find_spec("triton") is None and os.environ.get("CI") != "true", reason="needs the package triton")
@pytest.mark.parametrize("file", ["interpreted.py", "interpreted_mamba2.py"])
def test_kernels_as_python(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", file]
    # Without a GPU also where there is one: the interpreter copies tensors of a GPU back and forth.
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
