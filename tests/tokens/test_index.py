"""Indexes are made once, found again, made anew after a change, and whole whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sidewinder.errors import CorruptArtifact
from sidewinder.record import file_digest
from sidewinder.tokens.indexed import IndexedWriter
from sidewinder.tokens.loader import BlendLoader

MakeBlend = Callable[..., Path]
SIZES = {"a": [[7, 3, 12, 1, 9] * 4, [], [5, 5, 20], [2] * 30], "b": [[4, 30, 2]]}
WEIGHTS = {"a": 0.6, "b": 0.4}


def packed(path: Path) -> bytes:
    """The first sequences of a blend, its documents packed."""
    inputs_BL, targets_BL = BlendLoader(path, 8, 1, 100, "documents").sequences(0, 60)
    return inputs_BL.tobytes() + targets_BL.tobytes()


def files(path: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a blend's indexes with its time."""
    folder = path.parent / "index"
    return {
        file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir() if file.name != ".lock"
    }


def script(path: Path, before: str = "") -> list[str]:
    """A process that reads a blend, after some other lines."""
    read = f"from sidewinder.tokens.loader import BlendLoader\nBlendLoader({str(path)!r}, 8, 1, 100, 'documents')"
    return [sys.executable, "-c", f"{before}\n{read}"]


def test_an_index_is_made_once(make_blend: MakeBlend) -> None:
    path = make_blend(WEIGHTS, SIZES)
    found = packed(path)
    made = files(path)
    assert [name.split(".")[-1] for name in made].count("index") == 4, "none for the shard without documents"
    assert packed(path) == found
    assert files(path) == made


@pytest.mark.parametrize("damage", ["truncated", "missing", "other version", "manifest"])
def test_a_damaged_index_is_made_anew(make_blend: MakeBlend, damage: str) -> None:
    path = make_blend(WEIGHTS, SIZES)
    found = packed(path)
    made = files(path)
    victim = min((path.parent / "index").glob("*.json" if damage == "manifest" else "*.index"))
    if damage == "missing":
        victim.unlink()
    elif damage == "other version":
        victim.write_bytes(b"\7" + victim.read_bytes()[1:] + b"longer")
    else:
        victim.write_bytes(victim.read_bytes()[:-8])
    assert packed(path) == found
    assert {name: content for name, (_, content) in files(path).items()} == {
        name: content for name, (_, content) in made.items()
    }


def test_an_index_that_vanishes_while_it_is_read_is_named(make_blend: MakeBlend) -> None:
    path = make_blend(WEIGHTS, SIZES)
    loader = BlendLoader(path, 8, 1, 100, "documents")
    for file in (path.parent / "index").glob("*.index"):
        file.unlink()
    with pytest.raises(CorruptArtifact, match=r"\.index is missing, truncated or of another version"):
        loader.sequences(0, 1)


def test_other_tokens_have_another_index(make_blend: MakeBlend, tmp_path: Path) -> None:
    path = make_blend(WEIGHTS, SIZES)
    found = packed(path)
    before = set(files(path))
    with IndexedWriter(tmp_path / "b-0", np.int32) as writer:
        for document in ([10, 11, 2], [*range(12, 42), 2], [42, 43, 2]):
            writer.add(document)
    blend = json.loads(path.read_text())
    blend["sources"]["b"]["shards"][0] |= {"tokens": 37, "sha256_bin": file_digest(tmp_path / "b-0.bin")}
    path.write_text(json.dumps(blend))
    assert packed(path) != found
    assert len(set(files(path)) - before) == 2, "the shard's and its source's"


def test_a_damaged_shard_has_no_index(make_blend: MakeBlend, tmp_path: Path) -> None:
    path = make_blend(WEIGHTS, SIZES)
    index = tmp_path / "a-2.idx"
    index.write_bytes(index.read_bytes()[:-4])
    with pytest.raises(CorruptArtifact, match=r"a-2\.idx"):
        packed(path)
    blend = json.loads(path.read_text())
    del blend["sources"]["a"]["shards"][0]["sha256_bin"]
    path.write_text(json.dumps(blend))
    with pytest.raises(CorruptArtifact, match=r"blend\.json has no digest for .*a-0"):
        packed(path)


def test_sizes_that_do_not_add_up_to_the_tokens_are_refused(make_blend: MakeBlend, tmp_path: Path) -> None:
    path = make_blend(WEIGHTS, SIZES)
    index = bytearray((tmp_path / "a-2.idx").read_bytes())
    index[34] += 3  # The first document's size, just behind the header; where each begins stays as it was.
    (tmp_path / "a-2.idx").write_bytes(index)
    with pytest.raises(CorruptArtifact, match=r"a-2\.idx lists documents of 33 tokens; the blend promises 30"):
        packed(path)


def test_processes_that_ask_at_once_make_it_once(make_blend: MakeBlend, tmp_path: Path) -> None:
    path, log = make_blend(WEIGHTS, SIZES), tmp_path / "log"
    slow = f"""
import time, sidewinder.tokens.index as index
write = index.write_index
def logged(shard, layout, path):
    print(path.name, file=open({str(log)!r}, "a"))
    time.sleep(0.2)
    write(shard, layout, path)
index.write_index = logged"""
    processes = [subprocess.Popen(script(path, slow), stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    lines = log.read_text().split()
    assert len(lines) == len(set(lines)) == 4
    assert sum("waiting: " in text for text in told) >= 1


def test_several_processes_make_the_same_index(
    make_blend: MakeBlend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    path = make_blend(WEIGHTS, SIZES)
    found = packed(path)
    made = {name: content for name, (_, content) in files(path).items()}
    _forget(path)
    monkeypatch.setattr("sidewinder.tokens.index.DOCUMENTS_A_PROCESS", 10)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert packed(path) == found
    assert "index: 3 shards of a, 53 documents, in 2 processes" in capfd.readouterr().err
    assert {name: content for name, (_, content) in files(path).items()} == made
    # Workers that are killed as they write: what they leave is done without them.
    _forget(path)
    (tmp_path / "sabotage").mkdir()
    deadly = "import os, signal\nos.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
    (tmp_path / "sabotage/sitecustomize.py").write_text(deadly)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "sabotage"))
    assert packed(path) == found
    left_over = [name for name in files(path) if name.endswith(".part")]
    assert {name: content for name, (_, content) in files(path).items() if name not in left_over} == made


def test_a_killed_process_leaves_nothing_wrong(make_blend: MakeBlend) -> None:
    path = make_blend(WEIGHTS, SIZES)
    deadly = """
import os, signal
sync, calls = os.fsync, []
def fsync(file):
    calls.append(file)
    os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 3 else sync(file)
os.fsync = fsync"""
    process = subprocess.run(script(path, deadly), check=False)
    assert process.returncode == -signal.SIGKILL
    left = files(path)
    assert sum(name.endswith(".index") for name in left) == 2
    assert sum(name.endswith(".part") for name in left) == 1
    found = packed(path)
    assert not [name for name in files(path) if name.endswith(".part")]
    assert {name: left[name] for name in left if name.endswith(".index")}.items() <= files(path).items()
    _forget(path)
    assert packed(path) == found


def _forget(path: Path) -> None:
    for name in os.listdir(path.parent / "index"):
        (path.parent / "index" / name).unlink()
