"""The tensors of a transformers folder, by name: one safetensors file, or several with an index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sidewinder.errors import CheckpointError
from sidewinder.export.target import Target

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensors:
    """What the files hold, under the class's present names. Tensors are mapped from the files, not copied."""

    places: dict[str, tuple[Any, str]]
    """The open file and the name there, by present name."""
    ignored: list[str]
    """Stored tensors that do not take part in the logits."""

    @property
    def shapes(self) -> dict[str, list[int]]:
        return {name: list(file.get_slice(old).get_shape()) for name, (file, old) in self.places.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def __getitem__(self, name: str) -> Tensor:
        file, old = self.places[name]
        return file.get_tensor(old)


@contextmanager
def open_tensors(folder: Path, target: Target) -> Iterator[StoredTensors]:
    """The tensors of a folder while its files are open.

    Raises CheckpointError that names every file that is missing, truncated or foreign, and every tensor that the index
    promises and no file holds.
    """
    index = _index(folder)
    opened, problems = {}, []
    for name in sorted(set(index.values())) if index else [ONE]:
        try:
            opened[name] = safe_open(folder / name, framework="pt")
        except (OSError, SafetensorError) as error:
            path = folder / name
            size = f"{path.stat().st_size:,} bytes" if path.is_file() else "missing"
            problems.append(f"{name} ({size}): {error}")
    places: dict[str, tuple[Any, str]] = {}
    for file, stored in opened.items():
        for old in list(stored.keys()):
            name = _present(old, target)
            if name in places:
                problems.append(f"{file}: holds {name} a second time")
            places[name] = (stored, old)
    problems += [
        f"{file}: does not hold {old}, as the index says"
        for old, file in index.items()
        if file in opened and _present(old, target) not in places
    ]
    if problems:
        listed = "\n    ".join(problems)
        raise CheckpointError(
            f"cannot read the weights in {folder}:\n    {listed}",
            remedy="the files are missing, truncated or not safetensors; fetch them again",
        )
    ignored = [name for name in places if re.fullmatch(target.ignored, name)]
    yield StoredTensors({name: places[name] for name in places if name not in ignored}, ignored)


def _present(name: str, target: Target) -> str:
    """The present name of a tensor that may have an older one."""
    for old, new in target.older_names.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _index(folder: Path) -> dict[str, str]:
    """File of each tensor where there are several; empty for a single file."""
    if (folder / ONE).is_file():
        return {}
    path = folder / INDEX
    if not path.is_file():
        weights = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".bin", ".pt", ".safetensors"))
        raise CheckpointError(
            f"{folder} holds neither {ONE} nor {INDEX}; weights there: {', '.join(weights) or 'none'}",
            remedy="load it in transformers and save it with `save_pretrained`, which writes safetensors",
        )
    try:
        index = {str(name): str(file) for name, file in json.loads(path.read_text())["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"cannot read {path}: {type(error).__name__}: {error}", remedy="it must hold a `weight_map`; fetch it again"
        ) from error
    if outside := sorted({file for file in index.values() if Path(file).name != file}):
        raise CheckpointError(
            f"{path} names files outside its folder: {', '.join(outside)}", remedy="it must name files beside it"
        )
    return index
