"""Writes an imported checkpoint: into a hidden folder beside its place, read back from there, then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sidewinder.config.model import ModelConfig
from sidewinder.errors import CheckpointError
from sidewinder.model.checkpoint import ModelInfo, read_info, save_model
from sidewinder.model.lm import LanguageModel

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def blank_model(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """A model without memory: its names and shapes are what a checkpoint must hold."""
    with torch.device("meta"):
        return LanguageModel(config, vocab_size)


def write_checkpoint(
    destination: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    context_tokens: int,
    extra: dict[str, Any],
    copies: Iterable[Path] = (),
) -> ModelInfo:
    """Makes the folder `destination` with the tensors of a model under our names, and copies of the files `copies`.

    Tensors keep their dtypes, and are neither copied nor held: give them mapped from files and 8B models need little
    memory. Raises CheckpointError where the folder is not new, a tensor is not finite, or writing fails; nothing is
    left behind then.
    """
    check_values(tensors)
    model = blank_model(config, tensors["embedding.weight"].shape[0])
    model.load_state_dict(tensors, assign=True)
    with staged(destination) as part:
        weights, description = save_model(model, part, context_tokens=context_tokens, extra=extra)
        weights.chmod(description.stat().st_mode)  # safetensors lets nobody else read what it writes.
        _compare(weights, tensors)
        for path in copies:
            shutil.copyfile(path, part / path.name)
    return read_info(destination)


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """Raises one CheckpointError that lists tensors of a type that holds no weights, or with NaN or infinite values."""
    problems = []
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            problems.append(f"{name}: {str(tensor.dtype).removeprefix('torch.')} is not a type of weights")
        elif not all(value.isfinite() for value in torch.aminmax(tensor)):  # Unlike isfinite, it takes no memory.
            wrong = int((~torch.isfinite(tensor)).sum())
            problems.append(f"{name}: {wrong:,} of {tensor.numel():,} values are NaN or infinite")
    if problems:
        listed = "\n    ".join(problems)
        raise CheckpointError(
            f"{len(problems)} tensors do not hold usable weights:\n    {listed}",
            remedy="use another checkpoint of the same run, or weights that are not quantised",
        )


@contextmanager
def staged(destination: Path) -> Iterator[Path]:
    """A hidden folder that becomes `destination` when the block ends well, and disappears when it does not."""
    destination = destination.resolve()
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise CheckpointError(f"{destination} exists already", remedy="name a new folder, or remove that one")
    part = destination.with_name(f".{destination.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        part.rename(destination)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {destination}: {error}", remedy="free disk space or mend permissions, then try again"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _compare(weights: Path, tensors: Mapping[str, Tensor]) -> None:
    """Reads what was written. Raises CheckpointError where it is not what was given."""
    try:
        with safe_open(weights, framework="pt") as written:
            wrong = [name for name, tensor in tensors.items() if not torch.equal(written.get_tensor(name), tensor)]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read back {weights}: {error}", remedy="check the disk, then try again"
        ) from error
    if wrong:
        raise CheckpointError(
            f"{weights} does not hold what was written: {', '.join(wrong)}", remedy="check the disk, then try again"
        )
