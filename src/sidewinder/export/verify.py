"""Loads a written export as a user would, and compares it with the checkpoint that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from sidewinder.export.target import ExportError
from sidewinder.model import LanguageModel
from sidewinder.tokenizer import Tokenizer

logging.set_verbosity_error()  # Its notes on faster kernels and its bars are not about the export.
logging.disable_progress_bar()

LARGEST_DIFFERENCE = 1e-3  # Of any logit in float32; 1e-4 and less is usual.


@torch.no_grad()
def largest_logit_difference(folder: Path, model: LanguageModel, sequences: Sequence[np.ndarray]) -> float:
    """Largest absolute difference between the exported model's logits and ours, in float32.

    Raises ExportError where it exceeds LARGEST_DIFFERENCE, or where tensors are missing or left over.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    exported, loading = loaded
    if wrong := {kind: sorted(map(str, found)) for kind, found in loading.items() if found}:
        raise ExportError(f"{folder} does not load cleanly: {wrong}", remedy="report this; the mapping is wrong")
    differences = []
    for sequence in sequences:
        tokens_BL = torch.as_tensor(sequence.astype(np.int64))[None]
        difference_BLV = exported(tokens_BL, use_cache=False).logits - model(tokens_BL)
        differences.append(difference_BLV.abs().max())
    largest = torch.stack(differences).max().item()  # Unlike Python's max, it keeps NaN.
    if not largest <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"the exported {type(exported).__name__} and the checkpoint differ by up to {largest:g} in a logit",
            remedy="the checkpoint may hold values that are not finite; otherwise report this, the mapping is wrong",
        )
    return largest


def compare_tokenizers(folder: Path, source: Tokenizer, documents: Sequence[str]) -> int:
    """Number of documents that the exported tokenizer encodes otherwise, or does not give back.

    Raises ExportError, showing the first difference, where there are any.
    """
    exported: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    wrong = [text for text in documents if not _same(exported, source, text)]
    if wrong:
        ours, theirs = source.encode(wrong[0]), exported(wrong[0], add_special_tokens=False).input_ids
        place = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
        near = source.decode(ours[max(0, place - 8) : place + 8])
        raise ExportError(
            f"the exported tokenizer differs from {folder / 'tokenizer.model'} in {len(wrong)} of {len(documents)} "
            f"documents, first at token {place} near {near!r}",
            remedy="report this with the text; SentencePiece itself is beside it as tokenizer.model",
        )
    return len(wrong)


def _same(exported: Any, source: Tokenizer, text: str) -> bool:
    tokens = source.encode(text)
    return exported(text, add_special_tokens=False).input_ids == tokens and exported.decode(tokens) == text
