"""Two processes train as one does on GPUs, kernels and all: through NCCL on two, or sharing one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import ranks
from test_meshes import FOUR, PACKED, TWO_RANKS, case, name_of, run_ranks

from sidewinder.train.parallel.world import World

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
LOSS = {"float32": 5e-5, "bfloat16": 2e-2}
LENGTHS = {"context_tokens": 256, "budget_tokens": 5 * 8 * 256}


def cases() -> list[dict[str, Any]]:
    listed = [case(model, mesh, precision=kind, **LENGTHS) for model in FOUR for mesh in TWO_RANKS for kind in LOSS]
    listed += [case(model, {"context": 2}, precision="float32", **PACKED, **LENGTHS) for model in FOUR]
    listed += [case("hybrid", mesh, precision="bfloat16", recompute="M*-", **LENGTHS) for mesh in TWO_RANKS]
    compiled = {"precision": "bfloat16", "compile": True} | LENGTHS
    listed += [case(model, mesh, **compiled) for model in ("hybrid", "transformer") for mesh in TWO_RANKS]
    return [entry | {"wide": True} for entry in listed]


def losses(folder: Path) -> list[float]:
    return [loss for loss, _ in json.loads((folder / "rows.json").read_text())]


def test_two_processes_equal_one(tmp_path: Path, subtests: pytest.Subtests) -> None:
    run_ranks(2, {name_of(entry): entry for entry in cases()}, tmp_path)
    for entry in cases():
        with subtests.test(name_of(entry)):
            alone = tmp_path / ("alone-" + name_of(entry))
            ranks.train(entry | {"mesh": {}}, alone, World())
            found, expected = losses(tmp_path / name_of(entry)), losses(alone)
            print(name_of(entry), "largest difference", max(abs(a - b) for a, b in zip(found, expected, strict=True)))
            assert found == pytest.approx(expected, abs=LOSS[entry["training"]["precision"]], rel=0)
