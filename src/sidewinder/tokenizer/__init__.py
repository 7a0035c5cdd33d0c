"""Tokenizer: SentencePiece BPE with byte fallback, so that decoding gives back every text exactly."""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor

from sidewinder.errors import CorruptArtifact

MODEL = "tokenizer.model"


def load(path: Path) -> SentencePieceProcessor:
    """Loads a SentencePiece model. Raises CorruptArtifact where the file is missing or no such model."""
    try:
        content = Path(path).read_bytes()
        if not content:  # SentencePiece takes no bytes for no argument, and fails at the first use.
            raise ValueError("the file is empty")
        return SentencePieceProcessor(model_proto=content)
    except (OSError, ValueError, RuntimeError) as error:
        raise CorruptArtifact(
            f"cannot read the tokenizer {path}: {error}",
            remedy=f"delete {Path(path).parent} and run the study again",
        ) from error
