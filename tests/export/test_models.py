"""Exported models against ours: logits, generation with caches, and what no class holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sidewinder.config.model import ModelConfig
from sidewinder.evaluate.generation import generate_greedily
from sidewinder.export.classes import target_of
from sidewinder.export.target import ExportError
from sidewinder.export.verify import largest_logit_difference
from sidewinder.export.write import write_model
from sidewinder.model import LanguageModel
from sidewinder.model.checkpoint import ModelInfo

Case = tuple[str, LanguageModel, ModelInfo]


def test_logits_equal(case: Case, tmp_path: Path) -> None:
    wanted, model, info = case
    target = write_model(model, info, tmp_path, bos=1, eos=2)
    assert target.model_class == wanted
    sequences = [np.random.default_rng(length).integers(0, model.vocab_size, length) for length in (1, 37, 96)]
    assert largest_logit_difference(tmp_path, model, sequences) < 1e-4


def test_generation_with_caches_equals_ours(case: Case, tmp_path: Path) -> None:
    _, model, info = case
    write_model(model, info, tmp_path, bos=1, eos=2)
    exported: Any = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    prompts = np.random.default_rng(7).integers(3, model.vocab_size, (2, 19)).tolist()
    ours = generate_greedily(model, prompts, 20, lambda row, tokens: tokens[-1] == 2)
    for prompt, wanted in zip(prompts, ours, strict=True):
        made = exported.generate(torch.tensor([prompt]), max_new_tokens=20, use_cache=True)
        assert made[0, 19:].tolist() == wanted


def test_the_same_model_gives_the_same_bytes(case: Case, tmp_path: Path) -> None:
    _, model, info = case
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        write_model(model, info, folder, bos=1, eos=2)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert config["max_position_embeddings"] == info.context_tokens
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)


ROPE = {"rope": {"fraction": 0.5}}


@pytest.mark.parametrize(
    ("config", "objection"),
    [
        ({"pattern": "M-M-"}, r"NemotronHForCausalLM: pattern: needs a layer '\*'"),
        ({"pattern": "mM"}, r"Mamba2ForCausalLM: pattern: no layers 'm'"),
        ({"pattern": "M*-", "attention": ROPE}, r"NemotronHForCausalLM: attention.rope: null only"),
        (
            {"pattern": "M*-", "mlp": {"activation": "swiglu"}},
            r"NemotronHForCausalLM: mlp.activation: gelu or relu2 only",
        ),
        ({"pattern": "MMM", "norm": "layernorm"}, r"Mamba2ForCausalLM: norm: rmsnorm only, not layernorm"),
        ({"pattern": "**--", "norm": "layernorm", "attention": ROPE}, r"NemotronForCausalLM: pattern: `\*-` repeated"),
        (
            {"pattern": "*-", "attention": ROPE, "mlp": {"activation": "swiglu"}},
            r"LlamaForCausalLM: attention.rope.fraction: 1 only, not 0.5",
        ),
        (
            {
                "pattern": "*-",
                "norm": "layernorm",
                "attention": ROPE | {"heads": 3, "kv_heads": 3},
                "mlp": {"activation": "swiglu"},
            },
            r"StableLmForCausalLM: attention: heads x head_size must equal hidden_size",
        ),
    ],
)
def test_a_model_that_no_class_holds_is_refused_with_the_option(config: dict[str, Any], objection: str) -> None:
    with pytest.raises(ExportError, match=objection) as error:
        target_of(ModelConfig.model_validate(config))
    assert "remedy: change what the nearest class objects to" in str(error.value)


def test_damaged_exports_are_refused(case: Case, tmp_path: Path) -> None:
    """A weight that differs, one that is NaN, and one that is missing from the file."""
    _, model, info = case
    write_model(model, info, tmp_path, bos=1, eos=2)
    sequences = [np.arange(3, 40)]
    with torch.no_grad():
        model.head.weight[7] += 0.5
    with pytest.raises(ExportError, match=r"differ by up to [0-9.]+ in a logit"):
        largest_logit_difference(tmp_path, model, sequences)
    with torch.no_grad():
        model.head.weight[7] = float("nan")
    with pytest.raises(ExportError, match="differ by up to nan"):
        largest_logit_difference(tmp_path, model, sequences)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"does not load cleanly: \{'missing_keys': \['lm_head.weight'\]"):
        largest_logit_difference(tmp_path, model, sequences)
