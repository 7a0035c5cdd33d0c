"""Checkpoints: exact round trips, and errors that name everything wrong at once."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidewinder.errors import CheckpointError
from sidewinder.model import checkpoint, load_model, save_model
from sidewinder.model.checkpoint import DESCRIPTION, WEIGHTS


@pytest.fixture
def saved(model, tmp_path):
    save_model(model, tmp_path, context_tokens=256, extra={"note": "a"})
    return tmp_path


def test_round_trip_is_exact(model, saved, tokens_of):
    loaded, info = load_model(saved)
    assert info.config == model.config
    assert (info.vocab_size, info.context_tokens, info.extra) == (97, 256, {"note": "a"})
    assert torch.equal(loaded(tokens_of(2, 40)), model(tokens_of(2, 40)))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert set(info.tensors) == set(model.state_dict())
    assert info.tensors["embedding.weight"] == {"shape": [97, 32], "dtype": "float32"}


def test_the_same_model_gives_the_same_bytes(model, saved, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    save_model(model, other, context_tokens=256, extra={"note": "a"})
    for name in (WEIGHTS, DESCRIPTION):
        assert (other / name).read_bytes() == (saved / name).read_bytes()
    assert sorted(path.name for path in other.iterdir()) == [DESCRIPTION, WEIGHTS]


def test_other_precisions(saved, model):
    loaded, _ = load_model(saved, dtype=torch.bfloat16)
    assert torch.equal(loaded.head.weight, model.head.weight.bfloat16())


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_file_is_named(saved, kept):
    path = saved / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"cannot read the weights .*model\.safetensors \([\d,]+ bytes\)"):
        load_model(saved)


def test_missing_files_are_named(saved):
    (saved / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors \(missing\)"):
        load_model(saved)
    (saved / DESCRIPTION).unlink()
    with pytest.raises(CheckpointError, match=r"model\.json"):
        load_model(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": {"pattern": "MX"}}'])
def test_a_description_that_is_none(saved, text):
    (saved / DESCRIPTION).write_text(text)
    with pytest.raises(CheckpointError, match="cannot read the model description"):
        load_model(saved)


def test_everything_wrong_is_listed_at_once(saved):
    tensors = load_file(saved / WEIGHTS)
    del tensors["head.weight"], tensors["final_norm.weight"]
    tensors["stray.one"] = torch.zeros(2)
    tensors["embedding.weight"] = torch.zeros(5, 32)
    save_file(tensors, saved / WEIGHTS)
    with pytest.raises(CheckpointError) as caught:
        load_model(saved)
    message = str(caught.value)
    for line in (
        "4 tensors differ",
        "missing: final_norm.weight [32]",
        "missing: head.weight [97, 32]",
        "extra: stray.one [2]",
        "wrong shape: embedding.weight [5, 32], expected [97, 32]",
    ):
        assert line in message


def test_a_full_disk_leaves_the_earlier_checkpoint(model, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_model(model, saved, context_tokens=512)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_description_holds_the_whole_configuration(model, saved):
    description = json.loads((saved / DESCRIPTION).read_text())
    assert type(model.config).model_validate(description["config"]) == model.config


def test_others_may_read_what_the_umask_lets_them(model, tmp_path):
    before = os.umask(0o022)
    try:
        stored, written = save_model(model, tmp_path / "shared", context_tokens=64)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (stored, written)] == [0o644, 0o644]
