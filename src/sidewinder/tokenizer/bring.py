"""Copies a tokenizer that a study names into its results."""

from __future__ import annotations

import json
import os
from pathlib import Path

from sidewinder.config.tokenizer import Tokenizer
from sidewinder.errors import ConfigError
from sidewinder.record import file_digest
from sidewinder.tokenizer import JSON, MODEL, load, model_file
from sidewinder.tokenizer import Tokenizer as Tokens
from sidewinder.tokenizer.huggingface import HuggingFaceTokenizer

SETTINGS = "tokenizer_config.json"


def copy_tokenizer(config: Tokenizer, folder: Path) -> dict[str, Path]:
    """Copies the file, and writes which of a tokenizer.json's pieces are control tokens; returns paths by role.

    Raises ConfigError where the file changed since the study was read, or no piece of it ends a document, and
    CorruptArtifact where it cannot be read.
    """
    source = model_file(Path(config.path or ""))
    tokenizer = load(source)
    if file_digest(source) != config.sha256:
        raise ConfigError(
            f"tokenizer.path: {source} is not the file that the study was read with (digest {config.sha256})",
            remedy="put that file back, or start the study anew from its configuration",
        )
    eos = _end_of_document(tokenizer, config, source)
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        return {"tokenizer": write_bytes(folder / MODEL, source.read_bytes())}
    ids = {"bos": tokenizer.bos_id(), "unk": tokenizer.unk_id()}
    pieces = {kind: tokenizer.id_to_piece(token) for kind, token in ids.items() if token >= 0} | {"eos": eos}
    settings = {f"{kind}_token": piece for kind, piece in sorted(pieces.items())}
    return {
        "settings": write_bytes(folder / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode()),
        "tokenizer": write_bytes(folder / JSON, source.read_bytes()),
    }


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes beside the final place, flushes, renames."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _end_of_document(tokenizer: Tokens, config: Tokenizer, source: Path) -> str:
    """The piece that ends a document: what the study says, else what the tokenizer says."""
    named, known = config.eos, tokenizer.eos_id()
    ours = isinstance(tokenizer, HuggingFaceTokenizer)
    if named is not None and isinstance(tokenizer, HuggingFaceTokenizer) and named not in tokenizer.pieces.values():
        raise ConfigError(f"tokenizer.eos: {source} has no piece {named!r}", remedy="name one of its special tokens")
    if named is not None and not ours and (known < 0 or tokenizer.id_to_piece(known) != named):
        raise ConfigError(
            f"tokenizer.eos: {named!r} is not the end that {source} has; a SentencePiece model says itself which it is",
            remedy="leave tokenizer.eos out",
        )
    if named is None and known < 0:
        raise ConfigError(
            f"tokenizer.path: {source} has no piece that ends a document, and documents are told apart by it",
            remedy="name one with tokenizer.eos" if ours else "use a model that was trained with an eos_id",
        )
    return named or tokenizer.id_to_piece(known)
