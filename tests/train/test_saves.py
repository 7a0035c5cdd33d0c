"""Saves are whole or absent; damaged ones are named and passed over; a full disk costs nothing that was saved."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidewinder.errors import CheckpointError
from sidewinder.train.saves import latest, saves, tidy, write_save

OURS, OTHER = "a" * 64, "b" * 64


def save(state: Path, step: int, *, identity: str = OURS, keep: int = 2, size: int = 1000) -> int:
    parts = {"model": {"w": torch.full((size,), float(step))}, "optimizer": {"w/exp_avg": torch.zeros(size)}}
    return write_save(state, step=step, tokens=10 * step, identity=identity, parts=parts, keep=keep)


def names(state: Path) -> list[str]:
    return sorted(path.name for path in state.iterdir())


def fail(message: str) -> None:
    raise AssertionError(message)


def test_newest_is_found_and_old_ones_go(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]
    found = latest(tmp_path, OURS, fail)
    assert found
    assert (found.step, found.tokens) == (100, 1000)
    assert torch.equal(found.tensors("model")["w"], torch.full((1000,), 100.0))
    assert latest(tmp_path / "none", OURS, fail) is None


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        save(tmp_path / folder, 3)
    for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
        one, two = (tmp_path / folder / "step-00000003" / file for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damaged_save_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[Path], None], file: str
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    broken = tmp_path / "step-00000002" / file
    damage(broken)
    told: list[str] = []
    found = latest(tmp_path, OURS, told.append)
    assert found
    assert found.step == 1
    assert len(told) == 1
    assert str(broken) in told[0]
    assert names(tmp_path) == ["damaged-step-00000002", "step-00000001"]
    save(tmp_path, 2)
    assert latest(tmp_path, OURS, fail)


def test_wrong_step_in_state_json_is_damage(tmp_path: Path) -> None:
    save(tmp_path, 7)
    path = tmp_path / "step-00000007" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 70}))
    told: list[str] = []
    assert latest(tmp_path, OURS, told.append) is None
    assert str(path) in told[0]
    assert "first step" in told[1]


def test_half_done_work_is_cleared(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for left in (".step-00000002.part", ".step-00000000.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "model.safetensors").write_bytes(b"half")
    found = latest(tmp_path, OURS, fail)
    assert found
    assert found.step == 1
    tidy(tmp_path, OURS, fail)
    assert names(tmp_path) == ["step-00000001"]


def test_saves_of_another_identity_are_moved_aside(tmp_path: Path) -> None:
    state = tmp_path / "state"
    save(state, 4, identity=OTHER)
    save(state, 8, identity=OTHER)
    told: list[str] = []
    tidy(state, OURS, told.append)
    assert saves(state) == []
    assert names(tmp_path / "state-bbbbbbbb") == ["step-00000004", "step-00000008"]
    assert len(told) == 1
    assert "state-bbbbbbbb" in told[0]
    assert latest(state, OURS, fail) is None


def test_full_disk(small_disk: Any) -> None:
    """The error says what is missing; the saves before are whole, and saving works again once there is room."""
    state = small_disk.folder / "state"
    save(state, 1)
    save(state, 2)
    small_disk.fill(leave_bytes=20_000)
    with pytest.raises(CheckpointError) as caught:
        save(state, 3, size=20_000)
    message = str(caught.value)
    assert str(state) in message
    assert "bytes needed" in message
    assert "free" in message
    assert "remedy:" in message
    assert names(state) == ["step-00000001", "step-00000002"]
    found = latest(state, OURS, fail)
    assert found
    assert found.step == 2
    small_disk.clear()
    save(state, 3, size=20_000)
    assert names(state) == ["step-00000002", "step-00000003"]


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the folder should be: an error that holds for root as well."""
    (tmp_path / "state").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write to .*state"):
        save(tmp_path / "state", 1)
