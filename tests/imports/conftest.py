"""What the import tests share. Tests are not a package, so that the helper module is loaded by its path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def hub() -> ModuleType:
    """Random models of the transformers classes (random_transformers.py)."""
    path = Path(__file__).parent / "random_transformers.py"
    spec = importlib.util.spec_from_file_location("random_transformers", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["random_transformers"] = module
    spec.loader.exec_module(module)
    return module
