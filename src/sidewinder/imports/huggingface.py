"""A transformers folder as a Sidewinder checkpoint: the inverse of `export`.

The classes, their settings and the names of their tensors are those of `export.classes`. Weights keep the dtype that
they are stored in. Tensors are mapped from the files and written one by one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidewinder.errors import CheckpointError
from sidewinder.imports.destination import blank_model, write_checkpoint
from sidewinder.imports.settings import Described, describe
from sidewinder.imports.stored import StoredTensors, open_tensors
from sidewinder.imports.vocabulary import check_vocabulary, tokenizer_files
from sidewinder.model.checkpoint import ModelInfo, check_tensors

EMBEDDING, HEAD = "embedding.weight", "head.weight"


def import_huggingface(source: Path, destination: Path, *, context_tokens: int | None = None) -> ModelInfo:
    """Writes the model in the folder `source` into the new folder `destination`, its tokenizer files beside it.

    Returns the description that was written; its `extra` tells the class, the control tokens, and notes on what is not
    exactly as it was. Raises CheckpointError that lists all settings which our model cannot express, all missing, extra
    and mis-shaped tensors, or all damaged files.
    """
    described = describe(source, context_tokens)
    check_vocabulary(source, described.vocab_size)
    with open_tensors(source, described.target) as stored:
        tensors = _tensors(source, described, stored)
        notes = described.notes + _notes(described, stored)
        extra = {
            "imported_from": "huggingface",
            "model_class": described.target.model_class,
            "bos_token_id": described.bos,
            "eos_token_id": described.eos,
            "notes": notes,
        }
        return write_checkpoint(
            destination,
            described.model,
            tensors,
            context_tokens=described.context_tokens,
            extra=extra,
            copies=tokenizer_files(source),
        )


def _tensors(source: Path, described: Described, stored: StoredTensors) -> dict[str, Tensor]:
    """The stored tensors under our names, and with our meaning."""
    target = described.target
    wanted = blank_model(described.model, described.vocab_size).state_dict()
    head, embedding = target.name(HEAD), target.name(EMBEDDING)
    shapes: dict[str, Any] = {target.name(name): list(tensor.shape) for name, tensor in wanted.items()}
    copied = described.tied and head not in stored
    if copied:
        del shapes[head]
    check_tensors(source, shapes, stored.shapes)
    tensors = {name: target.ours(name, stored[target.name(name)]) for name in wanted if not (copied and name == HEAD)}
    if copied:
        tensors[HEAD] = tensors[EMBEDDING].clone()  # Its own memory: safetensors stores no tensor twice.
    elif described.tied and not torch.equal(tensors[HEAD], tensors[EMBEDDING]):
        raise CheckpointError(
            f"{source}: tie_word_embeddings is true, but {head} is not equal to {embedding}",
            remedy="set tie_word_embeddings to false in config.json, or remove the tensor",
        )
    return tensors


def _notes(described: Described, stored: StoredTensors) -> list[str]:
    notes = []
    if described.tied:
        notes.append("tie_word_embeddings: the head is now a copy of the embedding, with parameters of its own")
    if stored.ignored:
        notes.append(f"{len(stored.ignored)} stored tensors take no part in the logits and were left out")
    return notes
