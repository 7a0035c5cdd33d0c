"""The paper's models, to the parameter: figures measured on the released checkpoints or computed from their shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = {
    "hybrid": 8_654_517_248,
    "mamba2": 8_236_999_680,
    "transformer": 8_540_135_424,
    "transformer_short": 8_523_358_208,
    "mamba": 8_148_783_104,
    "hybrid_840m": 907_127_680,
    "mamba2_840m": 929_650_176,
    "mamba_840m": 844_317_696,
}


@pytest.fixture(scope="module")
def described() -> dict[str, dict]:
    command = [sys.executable, "-m", "sidewinder", "models", "--config", "studies/paper-8b.yaml", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {row["model"]: row for row in json.loads(done.stdout)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(described: dict[str, dict], name: str) -> None:
    assert described[name]["parameters"] == PUBLISHED[name]


def test_hybrid_is_24_mamba2_4_attention_28_mlp(described: dict[str, dict]) -> None:
    pattern = described["hybrid"]["pattern"]
    assert (pattern.count("M"), pattern.count("*"), pattern.count("-")) == (24, 4, 28)
    assert [place for place, letter in enumerate(pattern) if letter == "*"] == [10, 22, 33, 45]
    kinds = described["hybrid"]["parameters_by_kind"]
    assert kinds["mamba2"] == 24 * 109_640_064
    assert kinds["attention"] == 4 * 41_947_136
    assert kinds["mlp"] == 28 * 134_221_824


def test_cache_bytes(described: dict[str, dict]) -> None:
    assert described["transformer"]["cache_bytes"] == {"per_token": 524_288, "per_sequence": 0}
    assert described["hybrid"]["cache_bytes"]["per_token"] == 16_384
    assert described["mamba2"]["cache_bytes"]["per_token"] == 0


def test_laptop_models_are_equal_within_five_percent() -> None:
    command = [sys.executable, "-m", "sidewinder", "models", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    counts = [row["non_embedding_parameters"] for row in json.loads(done.stdout)]
    assert len(counts) == 4
    assert max(counts) / min(counts) < 1.05


def test_table_for_people() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidewinder", "models"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "M-M*M-M-" in done.stdout.replace("\n", "")
