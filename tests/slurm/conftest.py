"""What the Slurm tests share: a real cluster of two nodes on this machine, and a tiny study on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # The helpers beside this file; tests are not a package.

from real_slurm import Cluster, Layout
from started import started
from tiny import Tiny


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes of four CPUs and four GPUs that are none, with accounting."""
    with started(Layout()) as cluster:
        yield cluster


@pytest.fixture
def tiny(cluster: Cluster, tmp_path: Path) -> Callable[..., Tiny]:
    """`tiny(steps=…, **settings)`: a study with one small model, ready to train."""

    def make(folder: Path = tmp_path, **settings: Any) -> Tiny:
        return Tiny(folder, cluster, **settings)

    return make
