"""The SentencePiece file that the released repositories hold beside their weights."""

from __future__ import annotations

from pathlib import Path

from sidewinder.errors import CheckpointError
from sidewinder.imports.megatron.arguments import Arguments

PADDED_TO = 128
"""Megatron's default for make_vocab_size_divisible_by."""


def find_tokenizer(folders: list[Path]) -> Path | None:
    """The only `*.model` in the first folder that has any; None where there is none, or several to choose from."""
    for folder in folders:
        if found := sorted(path for path in folder.glob("*.model") if path.is_file()):
            return found[0] if len(found) == 1 else None
    return None


def check_tokenizer(path: Path, rows: int, arguments: Arguments) -> None:
    """Compares pieces with the embedding's rows. Raises CheckpointError that names both where they cannot belong."""
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_proto=path.read_bytes() or b"empty").get_piece_size()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot read the tokenizer {path}: {error}", remedy="fetch it again, or move it away to import without it"
        ) from error
    multiple = arguments.whole("make_vocab_size_divisible_by") or PADDED_TO
    multiple *= arguments.whole("tensor_model_parallel_size") or 1
    if not 0 <= rows - pieces < multiple:
        raise CheckpointError(
            f"the tokenizer {path} has {pieces:,} pieces, but the embedding has {rows:,} rows; padding to a multiple "
            f"of {multiple} does not explain that",
            remedy="put the checkpoint's own tokenizer there, or move this one away to import without it",
        )
