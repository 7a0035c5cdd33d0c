"""Two processes with the GPU's kernels, which Triton's interpreter runs on a CPU, train as one does without them."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import ranks
from test_meshes import LOSS, NORM, case, name_of, run_ranks

from sidewinder.train.parallel.world import World

SHORT = {"context_tokens": 16, "batch_sequences": 2, "warmup_sequences": 2, "budget_tokens": 2 * 2 * 16}
MESHES = [{"tensor": 2}, {"context": 2}]
CASES = [
    case("hybrid", mesh, recompute="mM*-", reset_documents=True, **SHORT) | {"sizes": {"pattern": "mM*-"}}
    for mesh in MESHES
]


@pytest.mark.skipif(find_spec("triton") is None and os.environ.get("CI") != "true", reason="needs the package triton")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Both kinds of Mamba, attention and an MLP, computed again in the backward pass, on packed documents."""
    listed = {name_of(entry): entry for entry in CASES}
    run_ranks(2, listed, tmp_path, "interpreted.py", TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    ranks.train(CASES[0] | {"mesh": {}}, tmp_path / "alone", World())
    expected = json.loads((tmp_path / "alone" / "rows.json").read_text())
    for name in listed:
        found = json.loads((tmp_path / name / "rows.json").read_text())
        assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], abs=LOSS, rel=0), name
        assert [norm for _, norm in found] == pytest.approx([norm for _, norm in expected], rel=NORM), name
