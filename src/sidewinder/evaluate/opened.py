"""A checkpoint opened from a folder, outside of a study: one of ours, or one in Hugging Face's form."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.ranks import local_device
from sidewinder.evaluate.subject import Subject
from sidewinder.imports import import_checkpoint
from sidewinder.model.checkpoint import DESCRIPTION, load_model
from sidewinder.record import file_digest
from sidewinder.tokenizer import MODEL, load

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def open_subject(
    folder: str | os.PathLike[str] | None,
    tokenizer: str | os.PathLike[str] | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Subject:
    """The model and its tokenizer. The tokenizer is that of the folder, or of the export beside it, unless named.

    In bfloat16 on GPUs and float32 on CPUs unless told. Raises EvaluationError where something is not named or not
    there, CheckpointError where the folder cannot be read.
    """
    if folder is None:
        raise EvaluationError(
            "the model `sidewinder` needs the folder of a checkpoint or of an export",
            remedy="--model_args pretrained=FOLDER[,tokenizer=FILE]",
        )
    place, where = Path(folder), local_device(device)
    name = dtype or ("bfloat16" if where.type == "cuda" else "float32")
    if name not in DTYPES:
        raise EvaluationError(f"unknown dtype {name!r}", remedy=f"use one of {', '.join(DTYPES)}")
    file = tokenizer_of(place, tokenizer)
    if (place / DESCRIPTION).is_file():
        return _loaded(place, place.name, file, where, DTYPES[name])
    with tempfile.TemporaryDirectory(prefix="sidewinder-") as scratch:
        import_checkpoint(place, Path(scratch) / "checkpoint")
        return _loaded(Path(scratch) / "checkpoint", place.name, file, where, DTYPES[name])


def tokenizer_of(folder: str | os.PathLike[str] | None, named: str | os.PathLike[str] | None = None) -> Path:
    """The tokenizer that is named, as a file or its folder, or else that of the checkpoint's folder or its export.

    Raises EvaluationError where it is not there.
    """
    given, place = Path(named) if named else None, Path(folder or "")
    tried = [given / MODEL if given.is_dir() else given] if given else [place / MODEL, place.parent / "export" / MODEL]
    for path in tried:
        if path.is_file():
            return path
    raise EvaluationError(
        f"there is no tokenizer at {' or '.join(map(str, tried))}",
        remedy="name it: --model_args pretrained=FOLDER,tokenizer=FILE",
    )


def _loaded(folder: Path, name: str, tokenizer: Path, device: torch.device, dtype: torch.dtype) -> Subject:
    model, info = load_model(folder, device, dtype)
    Subject.check_tokenizer(name, info, file_digest(tokenizer))
    return Subject(name, model, info.context_tokens, load(tokenizer), imported="imported_from" in info.extra)
