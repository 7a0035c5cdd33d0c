"""Thousands of real documents that every machine with the requirements has, and thousands of odd ones."""

from __future__ import annotations

import gettext
import io
import json
import random
from collections.abc import Iterator
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import django
from sentencepiece import SentencePieceTrainer

DOCUMENT_CHARACTERS = 700
ALPHABETS = (
    [chr(code) for code in range(32)],
    list(" \u2581\t\n\r\u00a0\u3000\u200b\u2003\ufeff"),
    list("0123456789.,-"),
    ["<s>", "</s>", "<unk>", "<0x0A>", "<|endoftext|>", "\0"],
    list("abc de ABC"),
    list(
        "\u65e5\u672c\u8a9e\ud55c\uad6d\u0639\u0631\u0628\u0939\u093f\u0928\u094d\u0e44\u0e17\u0e22\u10e5\u0301\u0323\ufe0f\u200d"
    ),
    ["\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f", "\U0001f600", "\ufffd", "\uffff", "\U0010ffff"],
)


@cache
def code(count: int) -> list[str]:
    """Pieces of the standard library's sources."""
    paths = sorted(path for path in Path(json.__file__).parents[1].rglob("*.py") if "site-packages" not in path.parts)
    return list(islice(chain.from_iterable(map(_pieces, random.Random(1).sample(paths, len(paths)))), count))


@cache
def translations(count: int) -> list[str]:
    """Messages of Django in about a hundred languages, a few to a document."""
    paths = sorted(Path(django.__file__).parent.rglob("*.mo"))
    return list(islice(chain.from_iterable(map(_messages, random.Random(1).sample(paths, len(paths)))), count))


@cache
def odd(count: int) -> list[str]:
    """Random strings of characters on which implementations part."""
    rng = random.Random(7)
    return [_odd(rng) for _ in range(count)]


def train(lines: list[str], **settings: Any) -> bytes:
    """A small SentencePiece model, with this project's settings unless they are given."""
    usual: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 3000,
        "character_coverage": 0.99,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "max_sentence_length": 1 << 20,
        "pad_id": -1,
        "minloglevel": 2,
    }
    model = io.BytesIO()
    texts = (line for text in lines for line in text.replace("\0", "").split("\n"))
    SentencePieceTrainer.train(sentence_iterator=texts, model_writer=model, **(usual | settings))
    return model.getvalue()


def _pieces(path: Path) -> Iterator[str]:
    text = path.read_text(errors="ignore")
    yield from (text[start : start + DOCUMENT_CHARACTERS] for start in range(0, len(text), DOCUMENT_CHARACTERS))


def _messages(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        texts = [str(text) for text in gettext.GNUTranslations(stream)._catalog.values()]  # type: ignore[attr-defined]
    yield from ("\n".join(texts[start : start + 8]) for start in range(0, len(texts), 8))


def _odd(rng: random.Random) -> str:
    alphabets = rng.sample(ALPHABETS, rng.randint(1, 4))
    parts = []
    for _ in range(rng.choice((1, 3, 10, 50, 200))):
        part = rng.choice(rng.choice(alphabets)) if rng.random() < 0.8 else chr(rng.randrange(0xE000, 0x110000))
        parts.append(part * rng.choice((1, 1, 1, 1, 2, 5, 17, 64)))
    return "".join(parts)
