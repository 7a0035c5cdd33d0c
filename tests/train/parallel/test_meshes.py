"""Every mesh trains as one process does: losses, gradient norms and weights, for all architectures.

The ranks are real processes that talk through gloo; the reference is the same training in this process. Differences are
those of float32 sums taken in another order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import ranks
from cases import ARCHITECTURES

from sidewinder.train.parallel.world import World

LOSS, NORM, WEIGHT = 2e-6, 2e-5, 5e-5
"""Largest absolute (losses, weights) and relative (norms) difference; about 5e-7, 6e-7 and 8e-6 are usual."""
FOUR = ("transformer", "mamba", "mamba2", "hybrid")
PACKED = {"reset_documents": True}
TWO_RANKS = [{"data": 2}, {"tensor": 2}, {"context": 2}]
FOUR_RANKS = [
    {"data": 2, "tensor": 2},
    {"data": 2, "context": 2},
    {"tensor": 2, "context": 2},
    {"context": 4},
    {"data": 4, "replicas": 2},
]


def name_of(case: dict[str, Any]) -> str:
    parts = [
        case["architecture"],
        *(f"{key}{value}" for key, value in (case["mesh"] | case.get("training", {})).items()),
    ]
    return "-".join(parts)


def case(architecture: str, mesh: dict[str, int], **training: Any) -> dict[str, Any]:
    return {"architecture": architecture, "mesh": mesh, "training": training}


CASES = {
    2: [case(model, mesh) for model in FOUR for mesh in TWO_RANKS]
    + [case("swiglu", {"tensor": 2}, **PACKED), case("odd", {"context": 2}, **PACKED)]
    + [case("hybrid", {"data": 2}, recompute="M-*", micro_batch_sequences=1)]
    + [case("hybrid", {"tensor": 2}, recompute="M*", micro_batch_sequences=2)],
    4: [case(model, mesh, **PACKED) for model in FOUR for mesh in FOUR_RANKS]
    + [case("odd", {"context": 4}), case("odd", {"context": 4}, **PACKED)]
    + [case("hybrid", {"context": 2, "tensor": 2}, recompute="M-", micro_batch_sequences=4, **PACKED)],
}


def run_ranks(
    processes: int, cases: dict[str, Any], folder: Path, program: str = "ranks.py", **environment: str
) -> None:
    """Trains all cases in one world of processes."""
    listed = folder / f"cases-{processes}.json"
    listed.write_text(json.dumps(cases))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name(program)), str(listed), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.fixture(scope="module", params=[2, 4])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """What all cases of one world came to."""
    folder = tmp_path_factory.mktemp(f"world-{request.param}")
    run_ranks(request.param, {name_of(entry): entry for entry in CASES[request.param]}, folder)
    return request.param, folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trains an architecture in this process, once for each setting that matters."""
    folder, known = tmp_path_factory.mktemp("alone"), {}

    def train(entry: dict[str, Any]) -> Path:
        packed = entry.get("training", {}).get("reset_documents", False)
        place = folder / f"{entry['architecture']}-{packed}"
        if place not in known:
            ranks.train(
                {"architecture": entry["architecture"], "training": {"reset_documents": packed}}, place, World()
            )
            known[place] = True
        return place

    return train


def assert_equal(found: Path, expected: Path) -> None:
    rows, reference = (json.loads((folder / "rows.json").read_text()) for folder in (found, expected))
    assert len(rows) == len(reference) == 5
    for step, ((loss, norm), (true_loss, true_norm)) in enumerate(zip(rows, reference, strict=True), start=1):
        assert loss == pytest.approx(true_loss, abs=LOSS, rel=0), f"loss of step {step}"
        assert norm == pytest.approx(true_norm, rel=NORM), f"gradient norm of step {step}"
    weights, true_weights = (torch.load(folder / "weights.pt") for folder in (found, expected))
    assert weights.keys() == true_weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, true_weights[name], atol=WEIGHT, rtol=0, msg=name)


def test_all_cases_equal_one_process(trained: tuple[int, Path], alone: Any, subtests: pytest.Subtests) -> None:
    processes, folder = trained
    for entry in CASES[processes]:
        with subtests.test(name_of(entry)):
            assert_equal(folder / name_of(entry), alone(entry))


def test_every_architecture_is_among_the_cases() -> None:
    assert {entry["architecture"] for entries in CASES.values() for entry in entries} == set(ARCHITECTURES)


def test_four_processes_then_two_then_one(tmp_path: Path, alone: Any) -> None:
    """A run goes on from the saves of other meshes; each sequence is read once, in the order of one process."""
    entry = case("hybrid", {"data": 2, "tensor": 2})
    run_ranks(4, {"run": entry | {"stop_at": 2}}, tmp_path)
    run_ranks(2, {"run": entry | {"mesh": {"context": 2}, "stop_at": 4}}, tmp_path)
    ranks.train(entry, tmp_path / "run", World())
    assert_equal(tmp_path / "run", alone(entry))
    reads = {tuple(json.loads(line)) for log in (tmp_path / "run").glob("reads-*") for line in log.open()}
    assert sorted(reads) == [(0, 4), (4, 4), (8, 4), (12, 4), (16, 8), (24, 8), (32, 8)]
