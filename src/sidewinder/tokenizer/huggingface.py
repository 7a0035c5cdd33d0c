"""A tokenizer.json of Hugging Face behind the methods that the rest of the code calls on SentencePiece.

A document may hold text that looks like a control token, say `<|endoftext|>` in a source file: it stays text.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Self

SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
USUAL_ENDS = (
    "</s>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<eos>",
    "<|eos|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "[SEP]",
)
"""Where the files beside a tokenizer.json do not say which of its special tokens ends a document."""
SPACE = "\u2581"


class HuggingFaceTokenizer:
    """`content` is that of tokenizer.json; `eos`, `bos` and `unk` are pieces.

    Raises ValueError where the content is no tokenizer, or has no such piece.
    """

    def __init__(self, content: str, eos: str | None = None, bos: str | None = None, unk: str | None = None) -> None:
        import tokenizers

        self.content = content
        try:
            self.inner = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # The library raises plain Exception.
            raise ValueError(str(error)) from None
        self.inner.encode_special_tokens = True
        self.inner.no_padding()
        self.inner.no_truncation()
        self.pieces = {token: piece for piece, token in self.inner.get_vocab(with_added_tokens=True).items()}
        self._special = {token for token, added in self.inner.get_added_tokens_decoder().items() if added.special}
        self._eos, self._bos, self._unk = (self._named(piece) for piece in (eos, bos, unk))
        if eos is None:
            ends = [self.inner.token_to_id(piece) for piece in USUAL_ENDS]
            self._eos = next((token for token in ends if token is not None and token in self._special), -1)

    @classmethod
    def beside(cls, path: Path, content: str) -> Self:
        """With the control tokens that the other files of its folder name."""
        found = control_pieces(path.parent)
        return cls(content, found.get("eos"), found.get("bos"), found.get("unk"))

    def get_piece_size(self) -> int:
        """One more than the highest id; there may be gaps below it."""
        return max(self.pieces) + 1

    def unk_id(self) -> int:
        return self._unk

    def bos_id(self) -> int:
        return self._bos

    def eos_id(self) -> int:
        return self._eos

    def encode(self, text: str | list[str]) -> list[Any]:
        """Ids of a text, or those of each text of a list."""
        if isinstance(text, str):
            return list(self.inner.encode(text, add_special_tokens=False).ids)
        return [encoded.ids for encoded in self.inner.encode_batch_fast(text, add_special_tokens=False)]

    def decode(self, ids: Any) -> str:
        return str(self.inner.decode([int(token) for token in ids], skip_special_tokens=True))

    def id_to_piece(self, token: int) -> str:
        """The piece as its vocabulary spells it; ids in a gap are empty."""
        return self.pieces.get(token, "")

    def is_control(self, token: int) -> bool:
        return token in self._special

    def is_unknown(self, token: int) -> bool:
        return token == self._unk

    def is_byte(self, token: int) -> bool:
        """Whether it is a byte piece as SentencePiece spells them: <0x0A>."""
        piece = self.id_to_piece(token)
        return not self._byte_level and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")

    def piece_bytes(self, token: int) -> bytes:
        """UTF-8 bytes that a token stands for; control tokens and gaps stand for none."""
        piece = self.id_to_piece(token)
        if self.is_control(token) or self.is_unknown(token):
            return b""
        if self.is_byte(token):
            return bytes([int(piece[3:-1], 16)])
        if self._byte_level and all(character in BYTE_LEVEL for character in piece):
            return bytes(BYTE_LEVEL[character] for character in piece)
        return piece.replace(SPACE, " ").encode()

    @cached_property
    def _byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps(json.loads(self.content).get("decoder"))

    def _named(self, piece: str | None) -> int:
        if piece is None:
            return -1
        token = self.inner.token_to_id(piece)
        if token is None:
            raise ValueError(f"it has no piece {piece!r}")
        return int(token)


def control_pieces(folder: Path) -> dict[str, str]:
    """Pieces of eos, bos and unk as the files beside a tokenizer.json name them."""
    found: dict[str, str] = {}
    for name in SETTINGS:
        path = folder / name
        settings = json.loads(path.read_text()) if path.is_file() else {}
        for kind in ("eos", "bos", "unk"):
            piece = settings.get(f"{kind}_token") if isinstance(settings, dict) else None
            piece = piece.get("content") if isinstance(piece, dict) else piece
            if isinstance(piece, str):
                found.setdefault(kind, piece)
    return found


def _byte_level_alphabet() -> dict[str, int]:
    """The printable character by which byte-level BPE writes each byte (GPT-2, Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTE_LEVEL = _byte_level_alphabet()
