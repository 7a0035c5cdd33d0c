"""Checkpoints of other systems as Sidewinder checkpoints: a folder with `model.safetensors` and `model.json`.

`huggingface` reads a folder of one of the transformers classes that `export.classes` lists: `settings` its
configuration, `stored` its tensors, `vocabulary` its tokenizer. `megatron` reads released Megatron-LM checkpoints.
`destination` writes what they found, whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sidewinder.errors import CheckpointError

if TYPE_CHECKING:
    from sidewinder.model.checkpoint import ModelInfo

Format = Literal["huggingface", "megatron"]
MEGATRON_MARKS = ("latest_checkpointed_iteration.txt", "mp_rank_*", "*/mp_rank_*")


def import_checkpoint(
    source: Path, destination: Path, form: Format | None = None, context_tokens: int | None = None
) -> ModelInfo:
    """Writes the checkpoint at `source` into the new folder `destination`; returns the description written there.

    `context_tokens` is the longest context that the model was trained for, where the source does not say. Raises
    CheckpointError for everything that cannot be read or expressed, and leaves nothing behind.
    """
    if (form or detect(source)) == "huggingface":
        from sidewinder.imports.huggingface import import_huggingface

        return import_huggingface(source, destination, context_tokens=context_tokens)
    from sidewinder.imports.megatron import import_megatron

    return import_megatron(source, destination, context_tokens=context_tokens)


def detect(source: Path) -> Format:
    """Which system wrote a folder. Raises CheckpointError where neither did."""
    if not source.is_dir():
        raise CheckpointError(
            f"there is no folder {source}", remedy="name the folder of the checkpoint, not a file in it"
        )
    if (source / "config.json").is_file():
        return "huggingface"
    if any(next(source.glob(mark), None) for mark in MEGATRON_MARKS):
        return "megatron"
    raise CheckpointError(
        f"{source} holds neither config.json (Hugging Face) nor {' or '.join(MEGATRON_MARKS[:2])} (Megatron)",
        remedy="name the folder that holds them, or say what it is with --from",
    )
