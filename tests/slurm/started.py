"""A cluster for the length of some tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from real_slurm import PACKAGES, Cluster, Layout, missing


@contextmanager
def started(layout: Layout) -> Iterator[Cluster]:
    """A cluster that ends with the tests, however they end. Without Slurm they are skipped or, under CI, fail."""
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
