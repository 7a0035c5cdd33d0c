"""Tokenizers: SentencePiece models, trained here or elsewhere, and the tokenizer.json of Hugging Face.

`load` opens either as a `Tokenizer`, whose methods have the names that SentencePiece gave them; `encoder.Encoder`
encodes much text fast; `train.train_tokenizer` is the stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from sentencepiece import SentencePieceProcessor

from sidewinder.errors import CorruptArtifact
from sidewinder.record import file_digest

MODEL, JSON = "tokenizer.model", "tokenizer.json"


class Tokenizer(Protocol):
    """What everything but the encoder needs. Ids that a tokenizer lacks are -1."""

    def get_piece_size(self) -> int: ...
    def unk_id(self) -> int: ...
    def bos_id(self) -> int: ...
    def eos_id(self) -> int: ...
    def encode(self, text: Any) -> Any:
        """Ids of a text, or a list of them for a list of texts; never a control token, whatever the text says."""

    def decode(self, ids: Any) -> str:
        """The text of ids; control tokens are left out."""

    def id_to_piece(self, token: int) -> str: ...
    def is_byte(self, token: int) -> bool: ...
    def is_control(self, token: int) -> bool: ...
    def is_unknown(self, token: int) -> bool: ...


def model_file(path: Path) -> Path:
    """The tokenizer file of a folder; a path that is no folder is returned as it is."""
    if not path.is_dir():
        return path
    return path / MODEL if (path / MODEL).is_file() and not (path / JSON).is_file() else path / JSON


def load(path: Path) -> Any:
    """The `Tokenizer` in a file or a folder: a SentencePieceProcessor, or one of Hugging Face with the same methods.

    Raises CorruptArtifact where it is missing or cannot be read.
    """
    path = model_file(Path(path))
    try:
        content = path.read_bytes()
        if not content:  # SentencePiece takes no bytes for no argument, and fails at the first use.
            raise ValueError("the file is empty")
        if path.suffix == ".json":
            from sidewinder.tokenizer.huggingface import HuggingFaceTokenizer

            return HuggingFaceTokenizer.beside(path, content.decode())
        return SentencePieceProcessor(model_proto=content)
    except (OSError, ValueError, RuntimeError) as error:
        raise CorruptArtifact(
            f"cannot read the tokenizer {path}: {error}",
            remedy=f"if the study made it, delete {path.parent} and run the study again; else name another file",
        ) from error


def describe(path: Path) -> tuple[str, int]:
    """(digest, pieces) of a tokenizer file. Raises CorruptArtifact as `load` does."""
    path = model_file(path)
    pieces = int(load(path).get_piece_size())
    return file_digest(path), pieces


def piece_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """UTF-8 bytes that a token stands for; control tokens stand for none."""
    if own := getattr(tokenizer, "piece_bytes", None):
        return bytes(own(token))
    if tokenizer.is_control(token) or tokenizer.is_unknown(token):
        return b""
    piece = tokenizer.id_to_piece(token)
    if tokenizer.is_byte(token):
        return bytes([int(piece[3:-1], 16)])
    return piece.replace("\u2581", " ").encode()
