"""Any checkpoint folder, one that was imported or one of a study's, in Hugging Face format, outside of a workflow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from sidewinder.export.classes import target_of
from sidewinder.export.target import Target
from sidewinder.export.write import write_weights
from sidewinder.imports.destination import blank_model, staged
from sidewinder.imports.stored import open_tensors
from sidewinder.imports.vocabulary import SENTENCEPIECE, check_vocabulary, tokenizer_files
from sidewinder.model.checkpoint import check_tensors, load_model, read_info

COMPARED_TOKENS = 64


def convert_checkpoint(
    checkpoint: Path, destination: Path, *, tokenizer: Path | None = None, compare: bool = True
) -> tuple[Target, float | None]:
    """Writes the checkpoint in the folder `checkpoint` into the new folder `destination`; its weights keep their dtype.

    The tokenizer is the SentencePiece model `tokenizer`; without one, the files beside the checkpoint. Returns the
    transformers class, and the largest difference of a logit in float32 between what transformers loads and ours, on
    some random tokens; `compare=False` leaves that out where memory is short: it takes both models in float32.
    Raises ExportError where no class fits or the logits differ, CheckpointError for damaged files; then nothing stays.
    """
    info = read_info(checkpoint)
    target = target_of(info.config)
    bos, eos = _control_tokens(info.extra, tokenizer or checkpoint / SENTENCEPIECE)
    with staged(destination) as part, open_tensors(checkpoint, target) as stored:
        wanted = blank_model(info.config, info.vocab_size).state_dict()
        check_tensors(checkpoint, {name: list(tensor.shape) for name, tensor in wanted.items()}, stored.shapes)
        write_weights({name: stored[name] for name in wanted}, info, part, bos=bos, eos=eos)
        if tokenizer:
            from sidewinder.export.tokenizer import write_tokenizer

            write_tokenizer(tokenizer, part, context_tokens=info.context_tokens)
        else:
            for path in tokenizer_files(checkpoint):
                shutil.copyfile(path, part / path.name)
        check_vocabulary(part, info.vocab_size)
        difference = _compare(checkpoint, part, min(info.context_tokens, COMPARED_TOKENS)) if compare else None
    return target, difference


def _control_tokens(extra: dict[str, Any], tokenizer: Path) -> tuple[Any, Any]:
    """Ids of beginning and end: as they were imported, else the tokenizer's, else none."""
    if "eos_token_id" in extra:
        return extra.get("bos_token_id"), extra["eos_token_id"]
    if not tokenizer.is_file():
        return None, None
    from sidewinder.tokenizer import load

    pieces = load(tokenizer)
    return pieces.bos_id(), pieces.eos_id()


def _compare(checkpoint: Path, written: Path, tokens: int) -> float:
    from sidewinder.export.verify import largest_logit_difference

    model, info = load_model(checkpoint)
    return largest_logit_difference(written, model, [np.random.default_rng(1).integers(0, info.vocab_size, tokens)])
