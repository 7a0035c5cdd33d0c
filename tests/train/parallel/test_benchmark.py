"""benchmarks/parallel.py measures every case on every process that it is started with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "parallel.py"


def test_every_case_has_its_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(BENCHMARK)]
    run = subprocess.run(
        [*command, "--tiny", "--steps", "1", "--json", str(file)], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    rows = json.loads(file.read_text())["rows"]
    told = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert told == rows, "one process speaks for all"
    assert [(row["part"], row["case"], row["processes"]) for row in rows] == [
        ("efficiency", "alone", 1),
        ("efficiency", "sharded", 2),
        ("efficiency", "copied", 2),
        ("long", "one sequence", 2),
        ("large", "8B hybrid", 2),
    ]
    for row in rows:
        tokens = row["step_s"] * row["tokens_per_s_per_gpu"] * row["processes"]
        sequences = {"efficiency": 4 * row["processes"], "long": 1, "large": row["processes"]}[row["part"]]
        assert tokens == pytest.approx(sequences * row["context_tokens"], rel=0.02)
    for row in rows[1:3]:
        assert row["efficiency"] == pytest.approx(
            row["tokens_per_s_per_gpu"] / rows[0]["tokens_per_s_per_gpu"], rel=0.01
        )
