"""benchmarks/evaluate.py does what it says: both sides answer the same tasks alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

pytest.importorskip("accelerate", reason="lm-eval's `hf` model imports it")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "evaluate.py"


def test_both_sides_agree_on_every_task(tokenizer: SentencePieceProcessor, tmp_path: Path) -> None:
    file, model = tmp_path / "rows.json", tmp_path / "small.model"
    model.write_bytes(tokenizer.serialized_model_proto())
    settings = f"--tiny --samples 3 --rounds 1 --context-tokens 256 --batch-tokens 512 --tokenizer {model}"
    run = subprocess.run(
        [sys.executable, str(BENCHMARK), *settings.split(), "--only", "hybrid", "--json", str(file)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    rows = json.loads(file.read_text())["rows"]
    assert [row["task"] for row in rows] == [
        task for task in ("letters", "texts", "rolling", "phonebook") for _ in "ab"
    ]
    for peer, ours in zip(rows[::2], rows[1::2], strict=True):
        assert (peer["side"], ours["side"]) == ("lm-eval hf", "Sidewinder")
        assert ours["scores"] == pytest.approx(peer["scores"], abs=1e-3)
        assert ours.get("largest_difference", 0) < 2e-3
        assert ours.get("equal_texts", 1) == 1
        assert ours["ratio"] == pytest.approx(ours["samples_per_s"] / peer["samples_per_s"], abs=2e-3)
