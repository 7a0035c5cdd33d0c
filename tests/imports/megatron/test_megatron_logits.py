"""An imported checkpoint gives the logits of the model that wrote it, to the last bit."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidewinder.imports.megatron import import_megatron
from sidewinder.model import count_parameters, load_model

TOKENS = torch.randint(0, 96, (2, 150), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("fused", "dtype"), [(False, torch.bfloat16), (True, torch.float32)])
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", ["hybrid", "mamba2", "transformer", "swiglu"])
def test_logits_are_the_writers(
    writer: Any, make_model: Any, tmp_path: Path, name: str, tensor: int, pipeline: int, fused: bool, dtype: torch.dtype
) -> None:
    model = make_model(name)
    source = writer.write_model(model, tmp_path / "in", tensor=tensor, pipeline=pipeline, fused=fused, dtype=dtype)
    info = import_megatron(source, tmp_path / "out")
    loaded, read = load_model(tmp_path / "out")
    assert read == info
    assert info.config.layers == model.config.layers
    assert (info.vocab_size, info.context_tokens) == (96, 256)
    assert torch.equal(loaded(TOKENS), model(TOKENS))
    assert {entry["dtype"] for entry in info.tensors.values()} == {str(dtype).removeprefix("torch.")}
    counted = sum(torch.Size(entry["shape"]).numel() for entry in info.tensors.values())
    assert counted == count_parameters(info.config, info.vocab_size).total
    assert (info.extra["tensor_parallel"], info.extra["pipeline_parallel"]) == (tensor, pipeline)


@pytest.mark.parametrize("name", ["hybrid", "mamba2", "transformer", "swiglu"])
def test_config_is_the_writers(writer: Any, make_model: Any, tmp_path: Path, name: str) -> None:
    model = make_model(name)
    info = import_megatron(writer.write_model(model, tmp_path / "in", tensor=2), tmp_path / "out")
    kinds = {"M": "mamba2", "*": "attention", "-": "mlp"}
    for key in ("layers", "hidden_size", "norm", "norm_eps", *(kinds[letter] for letter in set(model.config.layers))):
        assert getattr(info.config, key) == getattr(model.config, key)


def test_sizes_that_june_2024_did_not_store(writer: Any, make_model: Any, tmp_path: Path) -> None:
    """State size and groups were constants of the code, and so was the base of RoPE."""
    model = make_model("hybrid", mamba2={"state_size": 128, "head_size": 8, "groups": 8})
    old = dict.fromkeys(("mamba_state_dim", "mamba_head_dim", "mamba_num_groups", "kv_channels"), ...)
    import_megatron(writer.write_model(model, tmp_path / "in", tensor=2, **old), tmp_path / "out")
    assert torch.equal(load_model(tmp_path / "out")[0](TOKENS), model(TOKENS))
    model = make_model("transformer")
    import_megatron(writer.write_model(model, tmp_path / "in2", rotary_base=...), tmp_path / "out2")
    assert torch.equal(load_model(tmp_path / "out2")[0](TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    ("name", "centred", "added"), [("transformer", False, 1.0), ("hybrid", True, -1.0), ("mamba2", True, -1.0)]
)
def test_norms_centred_otherwise(
    writer: Any, make_model: Any, tmp_path: Path, name: str, centred: bool, added: float
) -> None:
    """Pre-norms and the final norm are shifted; the gated norm in the mixer is never centred."""
    model = make_model(name)
    stored = make_model(name)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith("norm.weight") and "mixer" not in key:
                weight.copy_((weight * 256).round() / 256)
                stored.get_parameter(key).copy_(weight + added)
    source = writer.write_model(stored, tmp_path / "in", tensor=2, apply_layernorm_1p=centred)
    info = import_megatron(source, tmp_path / "out")
    loaded, _ = load_model(tmp_path / "out")
    assert torch.equal(loaded(TOKENS), model(TOKENS))
    assert info.tensors["final_norm.weight"]["dtype"] == "float32"


def test_an_iteration_and_its_folder_itself(writer: Any, make_model: Any, tmp_path: Path) -> None:
    model = make_model("mamba2")
    arguments = writer.arguments_of(model, tensor=1, pipeline=1, later=True)
    state = writer.rank_state(model, 0, 1, 0, 1, False)
    source = writer.write_files([[state]], arguments, tmp_path / "in", iteration=123)
    one = import_megatron(source, tmp_path / "one")
    other = import_megatron(source / "iter_0000123", tmp_path / "other")
    assert one == other
    assert one.extra == {
        "imported_from": "megatron",
        "folder": "iter_0000123",
        "iteration": 123,
        "tensor_parallel": 1,
        "pipeline_parallel": 1,
        "consumed_train_samples": 1024,
        "tokenizer": None,
    }


def test_records_that_do_not_begin_at_whole_numbers(writer: Any, make_model: Any, tmp_path: Path) -> None:
    """torch.save aligns its records; a file that was packed again need not be."""
    model = make_model("transformer")
    path = writer.write_model(model, tmp_path / "in") / "release" / "mp_rank_00" / "model_optim_rng.pt"
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    with zipfile.ZipFile(path) as archive:
        assert len({info.header_offset % 4 for info in archive.infolist()}) == 4
    import_megatron(tmp_path / "in", tmp_path / "out")
    assert torch.equal(load_model(tmp_path / "out")[0](TOKENS), model(TOKENS))


def test_bytes_are_those_of_the_safetensors_library(writer: Any, make_model: Any, tmp_path: Path) -> None:
    """Also the same from any number of ranks, and with more than one dtype in a file."""
    model = make_model("hybrid")
    state = writer.rank_state(model, 0, 1, 0, 1, False)
    for name in state:
        if not name.endswith(("A_log", ".D")):
            state[name] = state[name].bfloat16()
    arguments = writer.arguments_of(model, tensor=1, pipeline=1, later=True)
    import_megatron(writer.write_files([[state]], arguments, tmp_path / "in"), tmp_path / "out")
    written = tmp_path / "out" / "model.safetensors"
    save_file(load_file(written), tmp_path / "again.safetensors", metadata={"format": "pt"})
    assert written.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    for ranks in (1, 2):
        import_megatron(writer.write_model(model, tmp_path / f"in{ranks}", tensor=ranks), tmp_path / f"out{ranks}")
    one, two = ((tmp_path / f"out{ranks}" / "model.safetensors").read_bytes() for ranks in (1, 2))
    assert one == two
    assert json.loads((tmp_path / "out1" / "model.json").read_text())["format"] == 1
    assert sorted(path.name for path in (tmp_path / "out1").iterdir()) == ["model.json", "model.safetensors"]
