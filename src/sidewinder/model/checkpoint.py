"""A model on disk: `model.safetensors` (the weights) and `model.json` (what they are the weights of).

Both are written beside their final place and renamed, the description last.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sidewinder.config.model import ModelConfig
from sidewinder.errors import CheckpointError
from sidewinder.model.lm import LanguageModel
from sidewinder.record import sync

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
FORMAT = 1


@dataclass(frozen=True)
class ModelInfo:
    """What model.json says: the architecture, the longest context it was trained on, and the saver's own notes."""

    config: ModelConfig
    vocab_size: int
    context_tokens: int
    tensors: dict[str, dict[str, Any]]
    """Shape and dtype of each tensor by name."""
    extra: dict[str, Any]


def save_model(
    model: LanguageModel, folder: Path, *, context_tokens: int, extra: dict[str, Any] | None = None
) -> tuple[Path, Path]:
    """Writes the weights and their description into `folder`; returns both paths.

    An earlier checkpoint there stays whole if anything fails, in which case CheckpointError says why.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return save_weights(
        model.config, model.vocab_size, weights, folder, context_tokens=context_tokens, extra=extra or {}
    )


def save_weights(
    config: ModelConfig,
    vocab_size: int,
    weights: dict[str, Tensor],
    folder: Path,
    *,
    context_tokens: int,
    extra: dict[str, Any],
) -> tuple[Path, Path]:
    """As `save_model`, from the whole weights by name, on the CPU."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    description = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "vocab_size": vocab_size,
        "context_tokens": context_tokens,
        "tensors": {name: _describe(tensor) for name, tensor in sorted(tensors.items())},
        "extra": extra,
    }
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    stored, written = folder / WEIGHTS, folder / DESCRIPTION
    _replace(stored, lambda part: save_file(tensors, part, metadata={"format": "pt"}))
    _replace(written, lambda part: part.write_text(text))
    return stored, written


def read_info(folder: Path) -> ModelInfo:
    """Reads `model.json`. Raises CheckpointError where it is missing or not a description of a model."""
    path = folder / DESCRIPTION
    try:
        read = json.loads(path.read_text())
        return ModelInfo(
            ModelConfig.model_validate(read["config"]),
            int(read["vocab_size"]),
            int(read["context_tokens"]),
            dict(read["tensors"]),
            dict(read["extra"]),
        )
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise CheckpointError(
            f"cannot read the model description {path}: {type(error).__name__}: {error}",
            remedy="give a folder that sidewinder wrote, or make the checkpoint again",
        ) from error


def load_model(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[LanguageModel, ModelInfo]:
    """Reads a checkpoint; the weights are converted to `dtype` and put on `device`.

    Raises CheckpointError where a file is missing or truncated, and one that lists every missing, extra or mis-shaped
    tensor where the weights are not those of the described model.
    """
    info = read_info(folder)
    with torch.device("meta"):
        model = LanguageModel(info.config, info.vocab_size)
    state: dict[str, Tensor] = {}
    read_weights(
        folder,
        {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
        lambda name, tensor: state.update({name: tensor.to(device=device, dtype=dtype, copy=True)}),
    )
    model.load_state_dict(state, assign=True)
    return model, info


def read_weights(folder: Path, wanted: dict[str, list[int]], take: Callable[[str, Tensor], object]) -> None:
    """Hands over the tensors of a checkpoint one by one, after comparing all names and shapes with those wanted.

    Raises CheckpointError as `load_model` does.
    """
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as stored:
            names = set(stored.keys())
            found = {name: list(stored.get_slice(name).get_shape()) for name in sorted(names)}
            check_tensors(path, wanted, found)
            for name in wanted:
                take(name, stored.get_tensor(name))
    except (OSError, SafetensorError) as error:
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "missing"
        raise CheckpointError(
            f"cannot read the weights {path} ({size}): {error}",
            remedy="the file is missing, truncated or not safetensors; use an earlier checkpoint or make it again",
        ) from error


def check_tensors(path: Path, wanted: dict[str, list[int]], found: dict[str, list[int]]) -> None:
    """Compares names and shapes. Raises one CheckpointError that lists everything wrong."""
    problems = [f"missing: {name} {shape}" for name, shape in wanted.items() if name not in found]
    problems += [f"extra: {name} {shape}" for name, shape in found.items() if name not in wanted]
    problems += [
        f"wrong shape: {name} {found[name]}, expected {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if problems:
        listed = "\n    ".join(problems)
        raise CheckpointError(
            f"{path} does not hold the weights of the described model; {len(problems)} tensors differ:\n    {listed}",
            remedy="check that the description and the weights come from the same run",
        )


def _describe(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside `path`, waits until the bytes are on the disk, then renames; leaves nothing behind on failure."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.touch()
        usual = part.stat().st_mode
        write(part)
        part.chmod(usual)  # Of its own files, safetensors lets nobody else read.
        sync(part)
        part.replace(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path}: {error}", remedy="free disk space or mend permissions, then run the study again"
        ) from error
