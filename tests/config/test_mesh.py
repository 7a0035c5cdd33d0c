"""Meshes that cannot work are refused before anything starts, with everything that does not divide."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from sidewinder.config.mesh import Mesh, misfits
from sidewinder.config.model import Attention, Mamba2, Mlp, ModelConfig

HYBRID = ModelConfig(
    pattern="M*-",
    hidden_size=48,
    attention=Attention(heads=6, kv_heads=3, head_size=8),
    mlp=Mlp(size=60),
    mamba2=Mamba2(head_size=8, groups=4, chunk=8),
)


def found(mesh: dict[str, int], **batch: Any) -> list[str]:
    sizes: dict[str, Any] = {"batch_sequences": 24, "micro": None, "context_tokens": 96} | batch
    return misfits(Mesh(**mesh), HYBRID, **sizes)


@pytest.mark.parametrize(
    "mesh", [{}, {"data": 2}, {"data": 24}, {"tensor": 1, "context": 4}, {"data": 4, "replicas": 2, "context": 2}]
)
def test_meshes_that_fit(mesh: dict[str, int]) -> None:
    assert found(mesh) == []


@pytest.mark.parametrize(
    ("mesh", "batch", "told"),
    [
        ({"data": 5}, {}, "mesh.data (5) must divide batch_sequences (24)"),
        ({"tensor": 2}, {}, "mesh.tensor (2) must divide attention.kv_heads (3)"),
        ({"tensor": 3}, {}, "mesh.tensor (3) must divide mamba2.groups (4)"),
        ({"tensor": 8}, {}, "mesh.tensor (8) must divide mlp.size (60)"),
        ({"context": 5}, {}, "mesh.tensor x mesh.context (5) must divide context_tokens (96)"),
        ({"data": 4, "replicas": 3}, {}, "mesh.replicas (3) must divide mesh.data (4)"),
        ({"replicas": 2}, {}, "mesh.replicas (2) must divide mesh.data (1)"),
        ({"context": 32}, {}, "(32) must divide hidden_size (48)"),
        ({"data": 4}, {"micro": 4}, "mesh.data x micro_batch_sequences (4 x 4) must divide batch_sequences (24)"),
        ({"data": 4}, {"batch_sequences": 6}, "mesh.data (4) must divide batch_sequences (6)"),
    ],
)
def test_everything_that_does_not_divide_is_told(mesh: dict[str, int], batch: dict[str, Any], told: str) -> None:
    assert any(told in line for line in found(mesh, **batch)), found(mesh, **batch)


def test_all_faults_at_once() -> None:
    assert len(found({"data": 5, "tensor": 7, "context": 5})) >= 4


@pytest.mark.parametrize(("started", "told"), [("1", "but 1 was started"), ("3", "but 3 were started")])
def test_another_number_of_processes_than_the_mesh_asks_for(started: str, told: str) -> None:
    code = (
        "import torch; from sidewinder.config.mesh import Mesh; from sidewinder.train.parallel.world import join\n"
        "with join(Mesh(data=2, tensor=2), torch.device('cpu'), timeout_s=5): pass"
    )
    environment = os.environ | {"WORLD_SIZE": started, "RANK": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "training.mesh asks for 4 processes (data 2 x tensor 2 x context 1), " + told in done.stderr
