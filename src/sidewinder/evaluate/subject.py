"""What is evaluated: a loaded checkpoint with its tokenizer and the study's held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from sidewinder.errors import CheckpointError
from sidewinder.evaluate.ranks import Ranks
from sidewinder.model import LanguageModel
from sidewinder.model.checkpoint import ModelInfo
from sidewinder.tokenizer import Tokenizer, piece_bytes

if TYPE_CHECKING:
    from sidewinder.evaluate.heldout import Heldout

MOST_SPARE_ROWS = 1023
"""Rows of an imported embedding that no piece stands for: others pad it to a multiple of 1,024 at most."""


@dataclass
class Subject:
    """A loaded checkpoint. Sequences begin with `start`, the end-of-document token, as documents do in training.

    Raises CheckpointError where the tokenizer cannot be the one that the weights were trained with.
    """

    title: str
    model: LanguageModel
    context_tokens: int
    tokenizer: Tokenizer
    heldout: Heldout | None = None
    """Needed by the suites that read text of the study."""
    imported: bool = False
    """Whether the weights were trained elsewhere, so that the embedding may have rows to spare."""
    ranks: Ranks = field(default_factory=Ranks)
    """This process among those that share the suite."""

    def __post_init__(self) -> None:
        pieces, rows = self.tokenizer.get_piece_size(), self.model.vocab_size
        if not 0 <= rows - pieces <= (MOST_SPARE_ROWS if self.imported else 0):
            raise CheckpointError(
                f"{self.title}: the weights are for a vocabulary of {rows:,} tokens, the tokenizer has {pieces:,}",
                remedy="give the tokenizer.model that the checkpoint was trained with",
            )

    @staticmethod
    def check_tokenizer(title: str, info: ModelInfo, sha256: str) -> None:
        """Raises CheckpointError where a checkpoint says that it was trained with another tokenizer."""
        trained = info.extra.get("tokenizer_sha256")
        if trained and trained != sha256:
            raise CheckpointError(
                f"{title}: trained with the tokenizer of digest {trained}, but the one given has {sha256}",
                remedy="give the tokenizer that the checkpoint was trained with",
            )

    @property
    def start(self) -> int:
        return int(self.tokenizer.eos_id())

    @cached_property
    def pieces(self) -> list[bytes]:
        """What each token id stands for in UTF-8; control tokens and spare rows stand for nothing."""
        pieces = self.tokenizer.get_piece_size()
        known = [piece_bytes(self.tokenizer, token) for token in range(pieces)]
        return known + [b""] * (self.model.vocab_size - pieces)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without any control token."""
        return list(self.tokenizer.encode(text))

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text."""
        return [list(tokens) for tokens in self.tokenizer.encode(list(texts))]
