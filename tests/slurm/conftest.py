"""What the Slurm tests share: a real cluster of two nodes on this machine, and a tiny study on it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # The helpers beside this file; tests are not a package.

from cluster import PACKAGES, Cluster, Layout, missing
from tiny import Tiny


def start(layout: Layout) -> Iterator[Cluster]:
    """A cluster that ends with the tests, however they end."""
    if absent := missing(layout.accounting):
        message = f"Slurm is not installed here ({', '.join(absent)}); on Debian: apt-get install {PACKAGES}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    folder = Path(tempfile.mkdtemp(prefix="sidewinder-slurm-"))  # Short: munge's socket has a limit of 107 letters.
    cluster = Cluster(folder)
    try:
        cluster.up(layout)
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes of four CPUs and four GPUs that are none, with accounting."""
    yield from start(Layout())


@pytest.fixture
def tiny(cluster: Cluster, tmp_path: Path) -> Callable[..., Tiny]:
    """`tiny(steps=…, **settings)`: a study with one small model, ready to train."""

    def make(folder: Path = tmp_path, **settings: Any) -> Tiny:
        return Tiny(folder, cluster, **settings)

    return make
