"""Checkpoints of other systems as Sidewinder checkpoints: a folder with `model.safetensors` and `model.json`.

`huggingface` reads a folder of one of the transformers classes that `export.classes` lists: `settings` its
configuration, `stored` its tensors, `vocabulary` its tokenizer. `megatron` reads released Megatron-LM checkpoints.
`destination` writes what they found, whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from sidewinder.errors import CheckpointError

if TYPE_CHECKING:
    from sidewinder.model.checkpoint import ModelInfo

Format = Literal["huggingface", "megatron"]
MEGATRON_MARKS = ("latest_checkpointed_iteration.txt", "mp_rank_*", "*/mp_rank_*")


def import_checkpoint(
    source: Path, destination: Path, form: Format | None = None, context_tokens: int | None = None
) -> ModelInfo:
    """Writes the checkpoint at `source` into the new folder `destination`; returns the description written there.

    `context_tokens` is the longest context that the model was trained for, where the source does not say; Megatron-LM
    always does. Raises CheckpointError for everything that cannot be read or expressed, and leaves nothing behind.
    """
    if (form or detect(source)) == "huggingface":
        from sidewinder.imports.huggingface import import_huggingface

        return import_huggingface(source, destination, context_tokens=context_tokens)
    from sidewinder.imports.megatron import import_megatron

    if context_tokens is not None:
        raise CheckpointError(
            "a Megatron checkpoint states its context: --context-tokens is not taken", remedy="leave it out"
        )
    return import_megatron(source, destination)


def as_format(name: str | None) -> Format | None:
    """The format of that name; None for None. Raises CheckpointError for another name."""
    if name is not None and name not in get_args(Format):
        raise CheckpointError(f"unknown format {name!r}", remedy=f"use one of {', '.join(get_args(Format))}")
    return cast("Format | None", name)


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
