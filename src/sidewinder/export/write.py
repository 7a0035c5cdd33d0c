"""The model files of a transformers folder: config.json, generation_config.json and model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from sidewinder.export.classes import target_of
from sidewinder.export.target import Target
from sidewinder.model.checkpoint import ModelInfo
from sidewinder.model.lm import LanguageModel


def write_model(model: LanguageModel, info: ModelInfo, folder: Path, *, bos: int | None, eos: int | None) -> Target:
    """Writes config.json, generation_config.json and model.safetensors; returns the class they are for."""
    return write_weights(model.state_dict(), info, folder, bos=bos, eos=eos)


def write_weights(weights: Mapping[str, Tensor], info: ModelInfo, folder: Path, *, bos: Any, eos: Any) -> Target:
    """As `write_model`, from the tensors of a model, which keep their dtypes."""
    target = target_of(info.config)
    config = target.config(
        info.config,
        vocab_size=info.vocab_size,
        context_tokens=info.context_tokens,
        bos=bos,
        eos=eos,
        dtype=str(weights["embedding.weight"].dtype).removeprefix("torch."),
    )
    generation = {"bos_token_id": bos, "eos_token_id": eos, "do_sample": False, "use_cache": True}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation)
    tensors = {name: tensor.contiguous() for name, tensor in target.weights(weights).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors lets nobody else read.
    return target


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
