"""Where a long document may be cut without changing its ids: only in SentencePiece models that change no text.

BPE joins neighbouring symbols into pieces and nothing else, so between two characters that stand side by side in no
piece nothing is ever joined, and what is joined on one side does not depend on the other. A model qualifies where it
is BPE, normalises nothing and adds nothing at the beginning of a text (all models trained here).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any

TRAINER, NORMALIZER = 2, 3  # Fields of sentencepiece_model.proto's ModelProto.
PIECE_KEY = 1 << 3 | 2  # How each of its pieces begins; those come first, and are many.
MODEL_TYPE, BPE, SUFFIX = 3, 2, 24  # Of its TrainerSpec: the kind of model, whether ▁ ends words.
CHARSMAP, DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES = 2, 3, 4, 5  # Of its NormalizerSpec; the last three default to 1.
SPACE = "\u2581"
LOOK_BYTES = 1 << 16


def is_plain(content: bytes) -> bool:
    """Whether a model file is BPE over the text as it is. Raises ValueError where it is no such file."""
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for field, value in _fields(content, _after_pieces(content)):
        if field == TRAINER and isinstance(value, bytes):
            trainer = dict(_fields(value))
        elif field == NORMALIZER and isinstance(value, bytes):
            normalizer = dict(_fields(value))
    return (
        trainer.get(MODEL_TYPE) == BPE
        and not trainer.get(SUFFIX, 0)
        and not normalizer.get(CHARSMAP, b"")
        and not normalizer.get(DUMMY_PREFIX, 1)
        and not normalizer.get(REMOVE_SPACES, 1)
        and bool(normalizer.get(ESCAPE_SPACES, 1))
    )


class Cutter:
    """Cuts documents of a plain model into parts whose ids, one after the other, are those of the whole."""

    def __init__(self, tokenizer: Any, part_bytes: int = 1 << 20) -> None:
        self.tokenizer, self.part_bytes = tokenizer, part_bytes

    def parts(self, text: bytes) -> list[bytes]:
        """Parts of about `part_bytes`; longer ones where a text offers no place to cut."""
        if len(text) < 2 * self.part_bytes:
            return [text]
        cuts = [0]
        while len(text) - cuts[-1] >= 2 * self.part_bytes:
            place = self._place(text, cuts[-1] + self.part_bytes)
            if place >= len(text):
                break
            cuts.append(place)
        return [text[start:end] for start, end in pairwise([*cuts, len(text)])]

    def _place(self, text: bytes, start: int) -> int:
        """The first byte at or after `start` that begins a character nothing joins to the one before it."""
        while start < len(text):
            while start < len(text) and text[start] & 0xC0 == 0x80:  # Not the first byte of a character.
                start += 1
            window = text[start : start + LOOK_BYTES].decode(errors="ignore")
            place = start
            for before, after in pairwise(window):
                place += len(before.encode())
                if (before, after) not in self._joined:
                    return place
            start = max(place, start + 1)
        return len(text)

    @cached_property
    def _joined(self) -> set[tuple[str, str]]:
        """Characters that stand side by side in some piece. A piece writes a space as ▁, which a text may hold too."""
        pairs: set[tuple[str, str]] = set()
        for token in range(self.tokenizer.get_piece_size()):
            pairs.update(pairwise(self.tokenizer.id_to_piece(token)))
        for before, after in list(pairs):
            pairs.update((one, other) for one in _both(before) for other in _both(after))
        return pairs


def _both(character: str) -> str:
    return SPACE + " " if character == SPACE else character


def _after_pieces(content: bytes) -> int:
    """Where the first field begins that is no short piece."""
    place, last = 0, len(content) - 1
    while place < last and content[place] == PIECE_KEY and content[place + 1] < 0x80:
        place += 2 + content[place + 1]
    return place


def _fields(content: bytes, place: int = 0) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protobuf message: integers, or the bytes of anything else."""
    while place < len(content):
        key, place = _varint(content, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(content, place)
            yield number, value
            continue
        if wire == 2:
            size, place = _varint(content, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"no SentencePiece model: a field of unknown kind {wire}")
        yield number, content[place : place + size]
        place += size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(content):
            raise ValueError("no SentencePiece model: it ends inside a number")
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
