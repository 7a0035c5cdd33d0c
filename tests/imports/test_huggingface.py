"""Folders that transformers wrote give its logits; export → import → export gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from sidewinder.cli import app
from sidewinder.export.convert import convert_checkpoint
from sidewinder.export.write import write_model
from sidewinder.imports import detect, import_checkpoint
from sidewinder.model import count_parameters, load_model
from sidewinder.model.checkpoint import read_info

KINDS = ["mamba", "mamba2", "nemotron_h", "nemotron", "llama", "stablelm"]
SEEDS = range(6)
TOLERANCE = 1e-5  # Of the largest logit.


@torch.no_grad()
def difference(checkpoint: Path, reference: Any, seed: int = 0) -> float:
    """Largest difference of a logit between an imported checkpoint and transformers, over the largest logit."""
    model, info = load_model(checkpoint)
    tokens_BL = torch.randint(0, info.vocab_size, (2, 37), generator=torch.Generator().manual_seed(seed))
    wanted_BLV = reference(tokens_BL, use_cache=False).logits
    return ((model(tokens_BL) - wanted_BLV).abs().max() / wanted_BLV.abs().max()).item()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(hub: ModuleType, kind: str, seed: int, tmp_path: Path) -> None:
    reference = hub.random_model(kind, seed)
    source = hub.save(reference, tmp_path / "source")
    info = import_checkpoint(source, tmp_path / "ours")
    assert difference(tmp_path / "ours", reference, seed) < TOLERANCE
    assert info.extra["model_class"] == type(reference).__name__
    assert info.context_tokens == hub.CONTEXT_TOKENS
    tied = reference.config.tie_word_embeddings
    added = reference.get_input_embeddings().weight.numel() if tied else 0
    assert count_parameters(info.config, info.vocab_size).total == reference.num_parameters() + added
    assert any("tie_word_embeddings" in note for note in info.extra["notes"]) == tied


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_gives_the_same_bytes(
    hub: ModuleType, kind: str, seed: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    source = hub.save(hub.random_model(kind, seed).to(dtype), tmp_path / "source")
    for step in ("one", "two"):
        import_checkpoint(source, tmp_path / f"import-{step}")
        convert_checkpoint(tmp_path / f"import-{step}", tmp_path / f"export-{step}", compare=False)
        source = tmp_path / f"export-{step}"
    modes = {oct(path.stat().st_mode) for path in tmp_path.glob("*-*/*")}
    assert len(modes) == 1, "some files can be read by fewer people than others"
    for form, names in (
        ("import", {"model.json", "model.safetensors"}),
        ("export", {"config.json", "generation_config.json", "model.safetensors"}),
    ):
        one, two = tmp_path / f"{form}-one", tmp_path / f"{form}-two"
        assert {path.name for path in one.iterdir()} == names
        for name in names - {"model.json"}:  # Notes tell what the first import changed.
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
    stored, exported = (
        load_file(tmp_path / "source/model.safetensors"),
        load_file(tmp_path / "export-one/model.safetensors"),
    )
    for name, tensor in stored.items():
        assert exported[name].dtype == dtype
        assert torch.equal(exported[name], tensor), name
    assert set(exported) - set(stored) <= {"lm_head.weight"}
    assert json.loads((tmp_path / "export-one/config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_study_exports_comes_back(hub: ModuleType, kind: str, tmp_path: Path) -> None:
    """`write_model` is what the export stage writes."""
    import_checkpoint(hub.save(hub.random_model(kind, 50), tmp_path / "source"), tmp_path / "ours")
    model, info = load_model(tmp_path / "ours")
    for step in ("one", "two"):
        folder = tmp_path / step
        folder.mkdir()
        write_model(model, info, folder, bos=1, eos=2)
        import_checkpoint(folder, tmp_path / f"back-{step}")
        model, info = load_model(tmp_path / f"back-{step}")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("ours", "back-one", "back-two")]
    assert weights[0] == weights[1] == weights[2]


def test_bf16_norms_lose_nothing(hub: ModuleType, tmp_path: Path) -> None:
    """StableLM stores scales, we store scales minus one: small scales would lose digits in bf16."""
    reference = hub.random_model("stablelm", 3)
    with torch.no_grad():
        reference.model.norm.weight.copy_(torch.linspace(1e-3, 3, reference.config.hidden_size))
    reference = reference.to(torch.bfloat16)
    import_checkpoint(hub.save(reference, tmp_path / "source"), tmp_path / "ours")
    assert difference(tmp_path / "ours", reference.float()) < TOLERANCE
    described = read_info(tmp_path / "ours").tensors
    assert described["final_norm.weight"]["dtype"] == "float32"
    assert described["layers.0.mixer.q_proj.weight"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("kind", KINDS)
def test_sharded_weights_equal_whole_ones(hub: ModuleType, kind: str, tmp_path: Path) -> None:
    model = hub.random_model(kind, 9)
    import_checkpoint(hub.save(model, tmp_path / "whole"), tmp_path / "from-whole")
    sharded = hub.save(model, tmp_path / "sharded", max_shard_size="8KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    import_checkpoint(sharded, tmp_path / "from-sharded")
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "from-whole" / name).read_bytes() == (tmp_path / "from-sharded" / name).read_bytes()


def edit(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_older_names_of_settings(hub: ModuleType, tmp_path: Path) -> None:
    """As config.json of released models has them: a pattern of letters, RoPE outside of rope_parameters."""
    reference = hub.random_model("nemotron_h", 4, layers_block_type=["linear_attention", "mlp", "full_attention"])
    source = hub.save(reference, tmp_path / "hybrid")
    edit(
        source / "config.json",
        layers_block_type=None,
        hybrid_override_pattern="M-*",
        time_step_limit=[0.0, float("inf")],
    )
    assert import_checkpoint(source, tmp_path / "ours").config.layers == "M-*"
    assert difference(tmp_path / "ours", reference) < TOLERANCE
    reference = hub.random_model("stablelm", 4)
    source, rope = hub.save(reference, tmp_path / "rotary"), reference.config.rope_parameters
    older = {"rope_theta": rope["rope_theta"], "partial_rotary_factor": rope["partial_rotary_factor"]}
    edit(source / "config.json", rope_parameters=None, rope_scaling=None, architectures=None, **older)
    import_checkpoint(source, tmp_path / "turned")
    assert difference(tmp_path / "turned", reference) < TOLERANCE


def rename(path: Path, old: str, new: str, **more: torch.Tensor) -> None:
    weights = {name.replace(old, new): tensor for name, tensor in load_file(path).items()}
    save_file(weights | more, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [("mamba", "backbone.embeddings.", "backbone.embedding."), ("nemotron_h", "backbone.", "model.")],
)
def test_older_names_of_tensors(hub: ModuleType, kind: str, old: str, new: str, tmp_path: Path) -> None:
    reference = hub.random_model(kind, 5)
    source = hub.save(reference, tmp_path / "source")
    rename(source / "model.safetensors", old, new)
    import_checkpoint(source, tmp_path / "ours")
    assert difference(tmp_path / "ours", reference) < TOLERANCE


def test_tensors_without_a_part_in_the_logits_are_left_out(hub: ModuleType, tmp_path: Path) -> None:
    reference = hub.random_model("llama", 5)
    source = hub.save(reference, tmp_path / "source")
    rename(source / "model.safetensors", "", "", **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    info = import_checkpoint(source, tmp_path / "ours")
    assert "1 stored tensors take no part in the logits and were left out" in info.extra["notes"]
    assert difference(tmp_path / "ours", reference) < TOLERANCE


def test_a_clamp_of_time_steps_is_noted(hub: ModuleType, tmp_path: Path) -> None:
    """The released hybrids have 0.001: transformers clamps there, the code that trained them does not."""
    reference = hub.random_model("nemotron_h", 6, time_step_min=0.001)
    info = import_checkpoint(hub.save(reference, tmp_path / "source"), tmp_path / "ours")
    assert any("raises step sizes below 0.001" in note for note in info.extra["notes"])
    assert difference(tmp_path / "ours", reference) < 1e-3


def test_the_context_that_a_folder_does_not_state_is_given(hub: ModuleType, tmp_path: Path) -> None:
    source = hub.save(hub.random_model("mamba", 1), tmp_path / "source")
    edit(source / "config.json", max_position_embeddings=None)
    assert import_checkpoint(source, tmp_path / "ours", context_tokens=2048).context_tokens == 2048


def test_commands_import_and_convert(hub: ModuleType, tmp_path: Path) -> None:
    reference = hub.random_model("nemotron", 2)
    source = hub.save(reference.to(torch.bfloat16), tmp_path / "source")
    assert detect(source) == "huggingface"
    made = CliRunner().invoke(app, ["import", str(source), str(tmp_path / "ours")])
    assert made.exit_code == 0, made.output
    info = read_info(tmp_path / "ours")
    total = count_parameters(info.config, info.vocab_size).total
    for words in ("NemotronForCausalLM", info.config.layers, f"{total:,}", "64 tokens", "97", "bfloat16"):
        assert words in made.output
    made = CliRunner().invoke(app, ["convert", str(tmp_path / "ours"), str(tmp_path / "back")])
    assert made.exit_code == 0, made.output
    assert "NemotronForCausalLM, logits differ by" in made.output
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    assert difference(tmp_path / "ours", loaded) < TOLERANCE
