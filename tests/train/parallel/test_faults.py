"""A fault of one process's weights: all processes decide alike about the steps that it spoils."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sidewinder.train.metrics import read_metrics

HERE = Path(__file__).parent


def start_ranks(size: int, program: str, *arguments: str) -> list[subprocess.Popen[str]]:
    """The ranks of a program of this folder, without a launcher that ends them all when one has ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / program), *arguments],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


@pytest.mark.parametrize("mesh", [{"data": 2}, {"tensor": 2}], ids=["data", "tensor"])
def test_fault_of_one_rank_makes_all_go_back_together(mesh: dict[str, int], tmp_path: Path) -> None:
    """Its weights become infinite before step 4: all skip 4 and 5, go back to the save of step 2, and end as others."""
    training = {"budget_tokens": 8 * 8 * 32, "save_every_tokens": 2 * 8 * 32}
    (tmp_path / "case.json").write_text(json.dumps({"architecture": "hybrid", "mesh": mesh, "training": training}))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(HERE / "faulty.py")]
    done = subprocess.run(
        [*command, str(tmp_path / "case.json"), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    whole, faulty = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "faulty"))
    told = [
        (event["event"], event["step"]) for event in faulty.events if event["event"] in ("skip", "rollback", "stop")
    ]
    assert told == [("skip", 4), ("skip", 5), ("rollback", 6)]
    assert [row["loss"] for row in faulty.steps] == [row["loss"] for row in whole.steps]
    assert len(whole.steps) == 8
    # Of the undisturbed run nothing is asked: on a busy machine, one of its processes may really have waited longer.
    late = "test: waiting longer for data than the others: rank 1"
    assert late in [event.get("message") for event in faulty.events]


def test_a_hang_within_a_layer_is_found_by_the_watchdogs(tmp_path: Path) -> None:
    """No group of the mesh fails before them, though torch's own limit is shorter: all tell where they hang."""
    case = {"architecture": "transformer", "mesh": {"data": 2, "tensor": 2}, "torch_limit_s": 4}
    case["training"] = {"hang_timeout_s": 10}
    (tmp_path / "case.json").write_text(json.dumps(case))
    processes = start_ranks(4, "limits.py", str(tmp_path / "case.json"), str(tmp_path))
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [124] * 4, told
    for rank in range(4):
        limits = json.loads((tmp_path / f"limits-{rank}.json").read_text())
        assert len(limits) >= 4  # World, data, tensor, saves.
        assert all(limit >= 20 for limit in limits.values())
        assert len(list(tmp_path.glob(f"stacks-rank{rank}-*.txt"))) == 1
    hang = next(event for event in read_metrics(tmp_path / "metrics.jsonl").events if event["event"] == "hang")
    assert "rank 0 (process" in hang["message"]
