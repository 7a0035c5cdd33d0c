"""The tokenizer files of a folder: which there are, and how many ids they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sidewinder.errors import CheckpointError

SENTENCEPIECE, TOKENIZERS = "tokenizer.model", "tokenizer.json"
FILES = (SENTENCEPIECE, TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that belong to a tokenizer."""
    return [folder / name for name in FILES if (folder / name).is_file()]


def check_vocabulary(folder: Path, rows: int) -> None:
    """Compares tokenizer files with the rows of an embedding; a folder without a tokenizer passes.

    An embedding may have rows to spare: many are padded to a round number. Raises CheckpointError, naming both sizes,
    where a tokenizer needs more, and where one cannot be read.
    """
    for name, count in ((SENTENCEPIECE, _sentencepiece_ids), (TOKENIZERS, _tokenizers_ids)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            ids = count(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"cannot read the tokenizer {path}: {error}", remedy="fetch the file again, or remove it"
            ) from error
        if ids > rows:
            raise CheckpointError(
                f"the tokenizer {path} has {ids:,} ids, but the weights have {rows:,} rows, so that ids from "
                f"{rows:,} on have none",
                remedy="take tokenizer and weights from the same model",
            )


def _sentencepiece_ids(path: Path) -> int:
    from sentencepiece import SentencePieceProcessor

    content = path.read_bytes()
    if not content:  # SentencePiece takes no bytes for no argument.
        raise ValueError("the file is empty")
    return int(SentencePieceProcessor(model_proto=content).get_piece_size())


def _tokenizers_ids(path: Path) -> int:
    """The highest id and one."""
    content = json.loads(path.read_text())
    vocabulary: Any = content["model"]["vocab"]
    ids = [int(added["id"]) for added in content.get("added_tokens") or []]
    # Unigram models list (piece, score) in the order of ids; all others map pieces to ids.
    ids += [len(vocabulary) - 1] if isinstance(vocabulary, list) else map(int, vocabulary.values())
    return max(ids) + 1
