"""Reads a pickle as data. Its opcodes are interpreted here; nothing that it names is ever imported, made or called.

Names come from an allow-list. A few rebuild what a checkpoint is made of (tensors, dictionaries); the classes and enums
that Megatron leaves in its arguments become `Inert` records; any other name refuses the whole file, called or not.

`torch.load(weights_only=True)` nearly serves, but it knows too few names, calls what it knows with arguments from the
file, and with `mmap=True` trusts the file's own storage sizes: a short storage silently continues into its neighbour.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from sidewinder.errors import CheckpointError


class UnsafePickle(CheckpointError):
    """A pickle names or does something that is not on the allow-list."""


@dataclass(frozen=True)
class Global:
    """A name in the file, `module.name`."""

    name: str


@dataclass(eq=False)
class Inert:
    """An object that the file describes and that is not made: its class, and what the class would have been given."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file: `key` names its record, `kind` is torch's storage class, as `BFloat16Storage`."""

    kind: str
    key: str
    elements: int


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage; offset and strides are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def end(self) -> int:
        """One past the last element that the view reaches."""
        if not prod(self.shape):
            return self.offset
        return self.offset + 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_rest: Any) -> StoredTensor:
    counts = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise ValueError("a tensor is not a view of a storage")
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError(f"a tensor has impossible sizes {counts}")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


REBUILT: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "collections.OrderedDict": lambda items=(): dict(items),
    "torch.Size": lambda items=(): tuple(items),
}
"""What calls of these names give: our own functions, which make data."""

KINDS = ("BFloat16", "Half", "Float", "Double", "Byte", "Char", "Short", "Int", "Long", "Bool")
STORAGES = {f"torch.{kind}Storage" for kind in KINDS} | {"torch.storage.UntypedStorage"}
DTYPES = (
    *("bfloat16", "half", "float16", "float", "float32", "double", "float64", "float8_e4m3fn", "float8_e5m2"),
    *("uint8", "int8", "short", "int16", "int", "int32", "long", "int64", "bool"),
)
BUILTINS = (
    *("bool", "int", "float", "complex", "str", "bytes", "bytearray", "object"),
    *("list", "tuple", "dict", "set", "frozenset", "slice", "range"),
)
INERT = {
    *(f"torch.{dtype}" for dtype in DTYPES),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in BUILTINS),
    *(f"{core}.multiarray.{name}" for core in ("numpy.core", "numpy._core") for name in ("_reconstruct", "scalar")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"pathlib.{module}{name}" for module in ("", "_local.") for name in ("Path", "PosixPath", "PurePosixPath")),
    *("numpy.ndarray", "numpy.dtype", "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
    *("collections.defaultdict", "collections.deque", "collections.Counter", "argparse.Namespace"),
    *("types.SimpleNamespace", "signal.Signals", "_io.BytesIO", "_codecs.encode", "torch.device"),
    *("torch._utils._rebuild_tensor_v3", "torch.nn.parameter.Parameter"),
}
"""Names that the rest of a checkpoint may hold: arguments, random states, Transformer Engine's notes."""
PACKAGES = ("megatron", "transformer_engine", "apex", "modelopt")
"""Classes of these become inert records too: by convention, names that begin with a capital letter."""


def read_pickle(content: bytes, where: Path) -> Any:
    """What a pickle describes: plain values, `StoredTensor`, and `Inert` for objects.

    Raises UnsafePickle for a name, call or opcode that is not allowed, CheckpointError where it is not a pickle.
    """
    machine = _Machine(where)
    try:
        for opcode, argument, place in pickletools.genops(content):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument, place)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, struct.error) as error:
        raise CheckpointError(
            f"{where} does not hold a readable pickle: {type(error).__name__}: {error}",
            remedy="the file is damaged or not a checkpoint; fetch it again",
        ) from error
    raise CheckpointError(f"the pickle in {where} has no end", remedy="the file is truncated; fetch it again")


class _Machine:
    """The stack machine of the pickle format, for the opcodes that torch.save writes (protocols 2 to 5)."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any, place: int | None) -> None:
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in OPERATIONS:
            OPERATIONS[name](self, argument)
        else:
            raise self.refusal(f"opcode {name} at byte {place}")

    def refusal(self, what: str) -> UnsafePickle:
        return UnsafePickle(
            f"{self.where} is refused: its pickle has {what}, which Megatron checkpoints do not need; nothing was run",
            remedy="do not load this file elsewhere unless you trust who made it; fetch the checkpoint from its source",
        )

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        """Everything above the last mark."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def remember(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def recall(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise IndexError("the stack is empty")
        self.stack[-count:] = [items]

    def marked_tuple(self, _: Any) -> None:
        items = self.pop_marked()
        self.stack.append(tuple(items))

    def name(self, full: str) -> None:
        """A name from the file, looked up in the allow-list alone."""
        allowed = full in REBUILT or full in INERT or full in STORAGES or _is_foreign_class(full)
        if not allowed:
            raise self.refusal(f"the name {full}")
        self.stack.append(Global(full))

    def name_from_stack(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self.name(f"{module}.{name}")

    def call(self, _: Any) -> None:
        """A call in the file: data of ours for the names in REBUILT, a record for every other allowed name."""
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, Global) or not isinstance(arguments, tuple):
            raise self.refusal(f"a call of {_shown(called)}")
        rebuild = REBUILT.get(called.name)
        self.stack.append(rebuild(*arguments) if rebuild else Inert(called.name, arguments))

    def call_with_keywords(self, _: Any) -> None:
        keywords = self.pop()
        if keywords:
            raise self.refusal(f"a call with keywords {_shown(keywords)}")
        self.call(None)

    def persistent(self, _: Any) -> None:
        """A reference out of the pickle: to a storage, or refused."""
        identity = self.pop()
        match identity:
            case ("storage", Global(name), str(key), str(), int(elements)) if name in STORAGES and elements >= 0:
                self.stack.append(Storage(name.rpartition(".")[2], key, elements))
            case _:
                raise self.refusal(f"a reference to {_shown(identity)}")

    def build(self, _: Any) -> None:
        """State of an object: kept as data for an inert one; a dictionary's attributes (torch's version notes) go."""
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):
            raise self.refusal(f"a state for {_shown(target)}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, Inert):
            raise self.refusal(f"items for {_shown(target)}")

    def add_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert | set):
            raise self.refusal(f"elements for {_shown(target)}")

    def set_one(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def add_one(self, _: Any) -> None:
        item = self.pop()
        self.add_items([item])


def _is_foreign_class(full: str) -> bool:
    package, name = full.split(".")[0], full.rpartition(".")[2]
    return package in PACKAGES and name[:1].isupper()


def _shown(value: Any) -> str:
    """What a value is, for messages; never its whole content, which the file chose."""
    return value.name if isinstance(value, Global | Inert) else f"a {type(value).__name__}"


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, version: None,
    "FRAME": lambda machine, length: None,
    "MARK": _Machine.mark,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "TUPLE": _Machine.marked_tuple,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "GLOBAL": lambda machine, pair: machine.name(pair.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "BINPERSID": _Machine.persistent,
    "BUILD": _Machine.build,
    "SETITEM": _Machine.set_one,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_marked()),
    "APPEND": _Machine.add_one,
    "APPENDS": lambda machine, _: machine.add_items(machine.pop_marked()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_marked()),
}
