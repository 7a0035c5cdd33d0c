"""Two processes save: beside training where that is asked for, and with one error for both where one cannot write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

sys.path.insert(0, str(Path(__file__).parent))
from test_meshes import run_ranks

from sidewinder.train.parallel.world import World
from sidewinder.train.saver import Saver
from sidewinder.train.saves import described, verify

STEPS, SAVED = 8, 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of both runs, and what each rank found."""
    folder = tmp_path_factory.mktemp("saving")
    training = {"budget_tokens": STEPS * 8 * 32, "save_every_tokens": SAVED * 8 * 32}
    run_ranks(2, {"architecture": "hybrid", "mesh": {"data": 2}, "training": training}, folder, "saving.py")
    return folder, [json.loads((folder / f"saving-{rank}.json").read_text()) for rank in range(2)]


def contents(save: Path) -> dict[str, torch.Tensor]:
    """All tensors of a save, whole."""
    stored = FileSystemReader(save).read_metadata().state_dict_metadata
    tensors = {name: torch.full(entry.size, torch.nan) for name, entry in stored.items()}
    found = described(save)
    verify(found)
    Saver(save.parent, found.identity, World(), keep=2).restore(found, tensors)
    return tensors


def test_training_goes_on_while_a_slow_disk_is_written(saved: tuple[Path, list[dict[str, Any]]]) -> None:
    """And what is saved are the numbers of the step that it names, as if training had waited."""
    folder, found = saved
    rows = [json.loads(line) for line in (folder / "beside" / "metrics.jsonl").read_text().splitlines()]
    order = [(row.get("event", "step"), row.get("step")) for row in rows]
    assert order.index(("save", SAVED)) > order.index(("step", SAVED + 1))
    for step in (SAVED, STEPS):
        name = f"state/step-{step:08d}"
        beside, waiting = contents(folder / "beside" / name), contents(folder / "waiting" / name)
        assert beside.keys() == waiting.keys()
        assert all(torch.equal(value, waiting[key]) for key, value in beside.items())
    assert all(name.startswith("sidewinder-save") for rank in found for name in rank["threads"])


@pytest.mark.parametrize("kind", ["waiting", "beside"])
def test_a_rank_that_cannot_write_is_named_by_all(saved: tuple[Path, list[dict[str, Any]]], kind: str) -> None:
    """With its own bytes, of which it has fewer than the other; nothing is left, and the next save is whole."""
    folder, found = saved
    first, second = (rank[kind] for rank in found)
    assert first == second
    state = folder / f"failing-{kind}"
    assert first["write"].startswith(f"rank 1: cannot write to {state}: Permission denied (8 bytes needed, ")
    assert first["read"].startswith(f"rank 1: cannot write to {state}: Permission denied (")
    assert first["write left"] == first["read left"] == "[]"
    assert torch.equal(contents(state / "step-00000002")["weights/w"], torch.arange(5.0))
