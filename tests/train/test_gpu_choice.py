"""Processes that train alone spread over a machine's GPUs; what a killed one held is free again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TAKE = "import sys; from sidewinder.train.gpu import own_gpu; print(own_gpu(int(sys.argv[1])), flush=True); input()"


@contextmanager
def process(folder: Path, gpus: int, **environment: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A process that has taken a GPU, with the place of it."""
    env = os.environ | {"TMPDIR": str(folder)} | environment
    command = [sys.executable, "-c", TAKE, str(gpus)]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as taken:
        assert taken.stdout
        yield int(taken.stdout.readline()), taken
        taken.kill()


def test_processes_spread_and_the_killed_make_room(tmp_path: Path) -> None:
    with (
        process(tmp_path, 3) as (first, _),
        process(tmp_path, 3) as (second, killed),
        process(tmp_path, 3) as (third, _),
    ):
        assert [first, second, third] == [0, 1, 2]
        with process(tmp_path, 3) as (again, _):
            assert again == 0
        killed.kill()
        killed.wait()
        with process(tmp_path, 3) as (freed, _):
            assert freed == 1


def test_the_same_gpu_has_the_same_name_for_all(tmp_path: Path) -> None:
    with process(tmp_path, 2, CUDA_VISIBLE_DEVICES="5,7") as (place, _):
        assert place == 0
        with process(tmp_path, 2, CUDA_VISIBLE_DEVICES="7,5") as (other, _):
            assert other == 0, "GPU 7, which nobody has"


@pytest.mark.parametrize(("rank", "place"), [("0", 0), ("3", 3), ("5", 1)])
def test_ranks_of_a_mesh_have_their_own(tmp_path: Path, rank: str, place: int) -> None:
    with process(tmp_path, 4, LOCAL_RANK=rank) as (found, _):
        assert found == place
    assert not list(tmp_path.iterdir())
