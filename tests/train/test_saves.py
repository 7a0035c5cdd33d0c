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
from sidewinder.train.parallel.world import World
from sidewinder.train.saver import Saver
from sidewinder.train.saves import Save, drop_all, saves

OURS, OTHER = "a" * 64, "b" * 64


def tensors_of(step: int, size: int = 1000) -> dict[str, torch.Tensor]:
    return {"weights/w": torch.full((size,), float(step)), "exp_avg/w": torch.zeros(size)}


def saver(state: Path, identity: str = OURS, **options: Any) -> Saver:
    return Saver(state, identity, World(), **{"keep": 2, "warn": fail} | options)


def save(state: Path, step: int, *, size: int = 1000, **options: Any) -> dict[str, Any]:
    writer = saver(state, **options)
    writer.start(step, 10 * step, tensors_of(step, size))
    return writer.finish()


def latest(state: Path, identity: str, warn: Callable[[str], None]) -> Save | None:
    return saver(state, identity, warn=warn).newest()


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
    tensors = tensors_of(0)
    saver(tmp_path).restore(found, tensors)
    assert torch.equal(tensors["weights/w"], torch.full((1000,), 100.0))
    assert latest(tmp_path / "none", OURS, fail) is None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_is_saved_is_what_was_there_when_saving_began(tmp_path: Path, asynchronous: bool) -> None:
    """Training goes on while an asynchronous save is written; it must not show."""
    writer, tensors = saver(tmp_path, asynchronous=asynchronous), tensors_of(5, 100_000)
    writer.start(5, 50, tensors)
    assert writer.busy
    tensors["weights/w"].zero_()
    writer.finish()
    assert not writer.busy
    found = latest(tmp_path, OURS, fail)
    assert found
    writer.restore(found, tensors)
    assert torch.equal(tensors["weights/w"], torch.full((100_000,), 5.0))


def test_milestones_are_kept_for_ever(tmp_path: Path) -> None:
    for step in range(1, 9):
        save(tmp_path, step, keep_every_tokens=30)
    assert names(tmp_path) == ["step-00000003", "step-00000006", "step-00000007", "step-00000008"]
    drop_all(tmp_path)
    assert names(tmp_path) == ["step-00000003", "step-00000006"]


def test_a_save_of_another_model_lists_all_differences(tmp_path: Path) -> None:
    save(tmp_path, 1)
    found = latest(tmp_path, OURS, fail)
    assert found
    wanted = {"weights/w": torch.zeros(7), "weights/v": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        saver(tmp_path).restore(found, wanted)
    for part in ("weights/w [1000], expected [7]", "missing: weights/v [1]", "extra: exp_avg/w [1000]"):
        assert part in str(caught.value)
    assert not wanted["weights/w"].any()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink])
@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "state.json"])
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
        (tmp_path / left / "__0_0.distcp").write_bytes(b"half")
    found = latest(tmp_path, OURS, fail)
    assert found
    assert found.step == 1
    assert names(tmp_path) == ["step-00000001"]


def test_saves_of_another_identity_are_moved_aside(tmp_path: Path) -> None:
    state = tmp_path / "state"
    save(state, 4, identity=OTHER)
    save(state, 8, identity=OTHER)
    told: list[str] = []
    assert latest(state, OURS, told.append) is None
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
