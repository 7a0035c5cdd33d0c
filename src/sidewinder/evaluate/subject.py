"""What is evaluated: a loaded checkpoint with its tokenizer and the study's held-out text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sentencepiece import SentencePieceProcessor

from sidewinder.model import LanguageModel

if TYPE_CHECKING:
    from sidewinder.evaluate.heldout import Heldout

SPACE = "\u2581"


@dataclass
class Subject:
    """A loaded checkpoint. Sequences begin with `start`, the end-of-document token, as documents do in training."""

    title: str
    model: LanguageModel
    context_tokens: int
    tokenizer: SentencePieceProcessor
    heldout: Heldout | None = None
    """Needed by the suites that read text of the study."""

    @property
    def start(self) -> int:
        return int(self.tokenizer.eos_id())

    @cached_property
    def pieces(self) -> list[bytes]:
        """What each token id stands for in UTF-8; control tokens stand for nothing."""
        return [piece_bytes(self.tokenizer, token) for token in range(self.tokenizer.get_piece_size())]

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without any control token."""
        return list(self.tokenizer.encode(text))


def piece_bytes(tokenizer: SentencePieceProcessor, token: int) -> bytes:
    """UTF-8 bytes that a token stands for."""
    if tokenizer.is_control(token) or tokenizer.is_unknown(token):
        return b""
    piece = tokenizer.id_to_piece(token)
    if tokenizer.is_byte(token):
        return bytes([int(piece[3:-1], 16)])
    return piece.replace(SPACE, " ").encode()
