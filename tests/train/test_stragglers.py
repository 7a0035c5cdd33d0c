"""Processes that are slower than the others are found, and what they wait for and use is told for all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sidewinder.train.metrics import Metrics, read_metrics
from sidewinder.train.watch import StragglerWatch, stragglers
from sidewinder.train.watch.stragglers import late_for_data, probe_s


def test_stragglers_are_slower_than_most() -> None:
    assert stragglers([1.0, 1.02, 0.98, 1.19]) == []
    assert stragglers([1.0, 1.3, 0.98, 1.21, 1.0, 1.01]) == [1, 3]
    assert stragglers([1.0, 2.0]) == [1]
    assert stragglers([1.0]) == []


def test_waiting_for_data_is_told_where_it_matters() -> None:
    assert late_for_data([0.1, 9.0, 0.1, 0.2], elapsed_s=100) == [1]
    assert late_for_data([0.1, 4.0, 0.1, 0.2], elapsed_s=100) == []
    assert late_for_data([9.0, 9.0, 9.1, 9.0], elapsed_s=100) == [], "all wait alike: nobody holds back the others"
    watch = StragglerWatch(every_steps=100)
    told = [(step, watch.check(step, [1.0, 1.0, 1.5 if step > 50 else 1.0])) for step in range(0, 400, 10)]
    assert [step for step, found in told if found] == [60, 160, 260, 360]


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
def test_probe_times_something(device: str) -> None:
    assert probe_s(torch.device(device)) > 0


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    """What the first of two processes told, of which the other has a slow device and disk, and is struck by a fault."""
    folder = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run(
        [*command, str(Path(__file__).with_name("slow_rank.py")), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    return read_metrics(folder / "metrics.jsonl")


def test_rows_tell_of_the_process_that_has_most(told: Metrics) -> None:
    """Data is read fast, and memory free, where metrics are written: the rows show the other process's numbers."""
    assert [row["step"] for row in told.steps] == [1, 2, 3, 4, 5, 6]
    assert all(0.2 <= row["data_wait_s"] < row["step_s"] for row in told.steps)
    assert {row["memory_bytes"] for row in told.steps} == {3 * 2**30}
    assert all(row["checkpoint_stall_s"] > 0 for row in told.steps if row["step"] in (3, 5))


def test_slow_device_and_slow_disk_are_told(told: Metrics) -> None:
    warnings = [event["message"] for event in told.events if event["event"] == "warning"]
    slow, late = "test: slower than the others: rank 1", "test: waiting longer for data than the others: rank 1"
    assert warnings[:2] == [slow, late]
    assert warnings.count(slow) == 1, "not told at each comparison"


def test_weight_that_is_spoilt_on_one_process_alone_is_saved_by_none(told: Metrics) -> None:
    events = [(event["event"], event["step"]) for event in told.events if event["event"] in ("save", "rollback")]
    assert events == [("save", 2), ("rollback", 4), ("save", 4), ("save", 6)]
