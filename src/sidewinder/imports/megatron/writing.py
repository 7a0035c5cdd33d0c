"""Writes a checkpoint's files tensor by tensor, so that memory holds the largest tensor and not the model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidewinder.model.checkpoint import DESCRIPTION, FORMAT, ModelInfo

SAFETENSORS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
ALIGNMENT_BYTES = 8


@dataclass(frozen=True)
class Planned:
    """A tensor to write."""

    shape: list[int]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_weights(path: Path, planned: dict[str, Planned], read: Callable[[str], Tensor]) -> Iterator[int]:
    """Writes safetensors, asking `read` for one tensor at a time; yields the bytes written after each."""
    # As the safetensors library does: widest numbers first, so that every tensor is aligned, then by name.
    order = sorted(planned, key=lambda name: (-planned[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + planned[name].nbytes
        one = planned[name]
        header[name] = {"dtype": SAFETENSORS[one.dtype], "shape": one.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = read(name)
            if (list(tensor.shape), tensor.dtype) != (planned[name].shape, planned[name].dtype):
                raise ValueError(f"{name} was planned as {planned[name]} and is {tensor.shape}, {tensor.dtype}")
            yield stream.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        stream.flush()
        os.fsync(stream.fileno())


def write_description(folder: Path, info: ModelInfo) -> None:
    """Writes model.json."""
    description = {
        "format": FORMAT,
        "config": info.config.model_dump(mode="json"),
        "vocab_size": info.vocab_size,
        "context_tokens": info.context_tokens,
        "tensors": info.tensors,
        "extra": info.extra,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")


def described(planned: dict[str, Planned]) -> dict[str, dict[str, Any]]:
    """Shape and dtype by name, as model.json has them."""
    return {
        name: {"shape": one.shape, "dtype": str(one.dtype).removeprefix("torch.")}
        for name, one in sorted(planned.items())
    }
