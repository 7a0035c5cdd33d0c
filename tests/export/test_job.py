"""Exports as jobs on a small study: the four architectures load offline as a user would load them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sidewinder.errors import CorruptArtifact
from sidewinder.evaluate.generation import generate_greedily
from sidewinder.export.huggingface import export_checkpoint
from sidewinder.export.target import ExportError
from sidewinder.graph import Graph, Stage
from sidewinder.model.checkpoint import load_model
from sidewinder.record import RECORD, Artifact, check, read_record

FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
}


def stage_of(graph: Graph, model: str) -> Stage:
    return next(stage for stage in graph.stages if stage.model_name == model)


@pytest.mark.parametrize("name", ["transformer", "mamba", "mamba2", "hybrid"])
def test_an_export_loads_and_says_what_was_compared(graph: Graph, name: str) -> None:
    stage = stage_of(graph, name)
    export_checkpoint(graph, stage)
    folder, record = graph.export(stage), read_record(graph.export(stage) / RECORD)
    facts = record["facts"]
    assert {Path(entry["path"]).name for entry in record["outputs"]} == FILES
    assert {entry["role"] for entry in record["outputs"]} == {"export"}
    for entry in record["outputs"]:
        check(Artifact(**entry), deep=True)
    assert facts["max_logit_difference"] < 1e-4
    assert facts["tokenizer_mismatches"] == 0
    assert facts["tokenizer_documents_checked"] > 20
    assert not (folder / ".part").exists()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    exported: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    prompt = [tokenizer.eos_token_id, *tokenizer("Return the largest of").input_ids]
    ours = generate_greedily(load_model(stage.folder / "checkpoint")[0], [prompt], 12)[0]
    made = exported.generate(torch.tensor([prompt]), max_new_tokens=12)[0, len(prompt) :].tolist()
    assert made == ours[: len(made)]


def test_an_export_is_not_repeated_and_a_repeated_one_is_equal(graph: Graph) -> None:
    stage = stage_of(graph, "mamba2")
    export_checkpoint(graph, stage)
    paths = [graph.export(stage) / name for name in sorted(FILES)]
    before, times = [path.read_bytes() for path in paths], [path.stat().st_mtime_ns for path in paths]
    export_checkpoint(graph, stage)
    assert [path.stat().st_mtime_ns for path in paths] == times
    paths[0].unlink()
    export_checkpoint(graph, stage)
    assert [path.read_bytes() for path in paths] == before


def test_it_loads_in_a_process_that_knows_nothing_of_us(graph: Graph) -> None:
    stage = stage_of(graph, "hybrid")
    export_checkpoint(graph, stage)
    script = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1]); t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "out = m.generate(**t('def ', return_tensors='pt'), max_new_tokens=5)\n"
        "assert 'sidewinder' not in sys.modules; print(type(m).__name__, out.shape[0])"
    )
    command = [sys.executable, "-c", script, str(graph.export(stage))]
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(graph.results)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["NemotronHForCausalLM", "1"], done.stderr


def test_what_cannot_be_exported_leaves_no_record(graph: Graph) -> None:
    stage = stage_of(graph, "misfit")
    with pytest.raises(ExportError, match=r"no transformers class holds the model with pattern 'M-M-'"):
        export_checkpoint(graph, stage)
    assert not (graph.export(stage) / RECORD).exists()
    stage = stage_of(graph, "transformer")
    shutil.rmtree(graph.export(stage), ignore_errors=True)
    weights = stage.folder / "checkpoint" / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1])
        with pytest.raises(CorruptArtifact, match=r"checkpoint: .* has [\d,]+ bytes instead of [\d,]+"):
            export_checkpoint(graph, stage)
    finally:
        weights.write_bytes(whole)
    assert not (graph.export(stage) / RECORD).exists()
