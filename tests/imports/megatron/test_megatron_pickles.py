"""Pickles that try to run something are refused, by name and without running; what Megatron's files hold is data."""

from __future__ import annotations

import argparse
import collections
import copyreg
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidewinder.errors import CheckpointError
from sidewinder.imports.megatron import import_megatron
from sidewinder.imports.megatron.pickled import Inert, Storage, StoredTensor, UnsafePickle, read_pickle


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def text(value: str) -> bytes:
    return pickle.BINUNICODE + len(value.encode()).to_bytes(4, "little") + value.encode()


def by_hand(body: bytes) -> Callable[[str], bytes]:
    """A pickle from opcodes; `{}` in text stands for the command."""
    return lambda command: body.replace(b"{}", text(command))


ATTACKS: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "system": ("posix.system", lambda command: pickle.dumps(Calls(os.system, command), 2)),
    "system, protocol 4": ("posix.system", lambda command: pickle.dumps(Calls(os.system, command), 4)),
    "in arguments": (
        "posix.system",
        lambda command: pickle.dumps({"model": {}, "args": argparse.Namespace(x=Calls(os.system, command))}, 2),
    ),
    "exec": ("exec", lambda command: pickle.dumps(Calls(exec, f"import os; os.system({command!r})"), 2)),
    "eval": ("eval", lambda command: pickle.dumps(Calls(eval, f"__import__('os').system({command!r})"), 2)),
    "subprocess": ("commands.Popen", lambda command: pickle.dumps(Calls(subprocess.Popen, ["sh", "-c", command]), 2)),
    "getattr of an import": (
        "getattr",
        lambda command: pickle.dumps(Calls(getattr(os, "system"), command), 2).replace(  # noqa: B009
            b"cposix\nsystem\n",
            b"c__builtin__\ngetattr\nc__builtin__\n__import__\n" + text("os") + b"\x85R" + text("system") + b"\x86R",
        ),
    ),
    "name with dots": ("os.system", by_hand(b"\x80\x04" + text("os") + text("system") + b"\x93{}\x85R.")),
    "INST": ("opcode INST", by_hand(b"({}ios\nsystem\n.")),
    "OBJ": ("os.system", by_hand(b"(cos\nsystem\n{}o.")),
    "OBJ of an allowed class": ("opcode OBJ", by_hand(b"(cargparse\nNamespace\no.")),
    "extension code": ("opcode EXT1", by_hand(b"\x80\x02\x82\xf0{}\x85R.")),
    "text reference": ("opcode PERSID", by_hand(b"Pos.system\n.")),
    "reference to a call": ("a reference to a tuple", by_hand(b"\x80\x02(" + text("module") + b"{}tQ.")),
    "storage of a wrong class": (
        "a reference to a tuple",
        by_hand(b"\x80\x02(" + text("storage") + b"cargparse\nNamespace\n{}" + text("cpu") + b"K\x01tQ."),
    ),
    "call of an instance": ("a call of argparse.Namespace", by_hand(b"\x80\x02cargparse\nNamespace\n)\x81{}\x85R.")),
    "call of text": ("a call of a str", by_hand(b"\x80\x02" + text("os.system") + b"{}\x85R.")),
    "call with keywords": (
        "a call with keywords",
        by_hand(b"\x80\x04cargparse\nNamespace\n)}" + text("x") + b"{}s\x92."),
    ),
    "state of a list": ("a state for a list", by_hand(b"\x80\x02]}" + text("append") + b"{}sb.")),
    "items of a tuple": ("items for a tuple", by_hand(b"\x80\x02){}K\x01s.")),
    "function of torch": ("torch.hub.load", by_hand(b"\x80\x02ctorch.hub\nload\n{}\x85R.")),
    "torch.load": ("torch.serialization.load", by_hand(b"\x80\x02ctorch.serialization\nload\n{}\x85R.")),
    "rebuild with a function": (
        "torch._tensor._rebuild_from_type_v2",
        by_hand(b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\n{}tR."),
    ),
    "numpy.load": ("numpy.load", by_hand(b"\x80\x02cnumpy\nload\n{}\x85R.")),
    "function of Megatron": ("megatron.training.pretrain", by_hand(b"\x80\x02cmegatron.training\npretrain\n{}\x85R.")),
    "name that is never called": ("posix.system", by_hand(b"\x80\x02cposix\nsystem\n.")),
    "partial": ("functools.partial", by_hand(b"\x80\x02cfunctools\npartial\n(cos\nsystem\n{}tR.")),
}
RUNNING = ["system", "system, protocol 4", "in arguments", "exec", "eval", "getattr of an import", "name with dots"]
RUNNING += ["INST", "OBJ", "extension code"]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def extension() -> Iterator[None]:
    """Code 240 of the extension registry means os.system, as a library could have arranged."""
    copyreg.add_extension("os", "system", 240)
    try:
        yield
    finally:
        copyreg.remove_extension("os", "system", 240)


def checkpoint_of(pickled: bytes, folder: Path) -> Path:
    """A checkpoint folder whose file has this pickle."""
    path = folder / "release" / "mp_rank_00" / "model_optim_rng.pt"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model_optim_rng/data.pkl", pickled)
        archive.writestr("model_optim_rng/byteorder", "little")
        archive.writestr("model_optim_rng/data/0", bytes(64))
    (folder / "latest_checkpointed_iteration.txt").write_text("release")
    return folder


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_attacks_are_refused_without_running(attack: str, tmp_path: Path, canary: Path, extension: None) -> None:
    named, make = ATTACKS[attack]
    source = checkpoint_of(make(f"touch {canary}"), tmp_path / "in")
    with pytest.raises(UnsafePickle) as caught:
        import_megatron(source, tmp_path / "out")
    assert named in str(caught.value)
    assert "nothing was run" in str(caught.value)
    assert not canary.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("attack", RUNNING)
def test_the_attacks_are_real(attack: str, canary: Path, extension: None) -> None:
    """Python's own unpickler runs them; without this, the test above could pass for broken pickles."""
    pickle.loads(ATTACKS[attack][1](f"touch {canary}"))
    assert canary.exists()


def test_classes_of_megatron_are_never_imported(tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real package of that name, which leaves a mark when it is imported, made, or given a state."""
    (tmp_path / "lib" / "megatron").mkdir(parents=True)
    mark = f"open({str(canary)!r}, 'w')"
    (tmp_path / "lib" / "megatron" / "__init__.py").write_text(
        f"class Config:\n    def __setstate__(self, state): {mark}\n    def __new__(cls, *args): {mark}\n{mark}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    body = by_hand(b"\x80\x02cmegatron\nConfig\n)\x81}" + text("command") + b"{}sb.")("touch")
    made = read_pickle(body, tmp_path)
    assert isinstance(made, Inert)
    assert (made.name, made.state) == ("megatron.Config", {"command": "touch"})
    assert not canary.exists()
    assert "megatron" not in sys.modules


def test_what_checkpoints_hold_is_read_as_data(tmp_path: Path) -> None:
    """Everything that torch.save may write beside weights: numpy's random state, types, paths, sets, big numbers."""
    content = {
        "numbers": [1, -3, 2**40, 2**70, -(2**3000), 1.5, True, False, None],
        "rng": np.random.get_state(),
        "scalar": np.float32(3),
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "default": collections.defaultdict(list, {"x": [1]}),
        "set": {1, 2},
        "bytes": b"\x00\xff",
        "path": Path("/data"),
        "type": torch.bfloat16,
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "tensor": torch.zeros(3, 4).T[1:],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": {"a": ({"b": [(1, 2), (3,), ()]},)},
        "args": argparse.Namespace(kept=[1, 2], other=argparse.Namespace(x="ü")),
    }
    for protocol in (2, 3, 4, 5):
        path = tmp_path / f"{protocol}.pt"
        torch.save(content, path, pickle_protocol=protocol)
        with zipfile.ZipFile(path) as archive:
            read = read_pickle(archive.read(f"{protocol}/data.pkl"), path)
        for name in ("numbers", "nested"):
            assert read[name] == content[name]
        assert list(read["ordered"].items()) == [("b", 1), ("a", 2)]
        assert read["size"] == (2, 3)
        assert read["tensor"] == StoredTensor(Storage("FloatStorage", "0", 12), 1, (3, 3), (1, 4))
        assert read["parameter"].shape == (2,)
        assert read["args"].state["kept"] == [1, 2]
        assert read["args"].state["other"].state == {"x": "ü"}


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02}q\x00.garbage"[:4],
        b"\x80\x02R.",
        b"\x80\x02h\x05.",
        b"\x80\x02t.",
        b"\x80\x02}]K\x01s.",
        b"\xff\xfe",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
        b"\x80\x02ccollections\nOrderedDict\nK\x05\x85R.",
    ],
)
def test_broken_pickles_are_told(pickled: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="pickle"):
        read_pickle(pickled, tmp_path)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"), [(-1, (2,), (1,)), (0, (-2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,))]
)
def test_impossible_views_are_told(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], tmp_path: Path
) -> None:
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x10tQ"
    counts = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, shape, strides))
    body = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + counts + b"\x89NtR."
    with pytest.raises(CheckpointError, match=r"impossible sizes|not a view"):
        read_pickle(body, tmp_path)
