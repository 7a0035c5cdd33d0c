"""The exported tokenizer against SentencePiece: real text, strings made to trip it, random strings."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from sidewinder.export.target import ExportError
from sidewinder.export.tokenizer import write_tokenizer
from sidewinder.export.verify import compare_tokenizers

TRICKY = [
    "",
    " ",
    "  two  spaces   three ",
    "\n",
    "\r\n\t\n\n   \n",
    " " * 101,
    "=" * 33 + "\n" + "-" * 70,
    "a" * 57,
    "<s>control pieces as text</s><unk><pad>",
    "<0x0A> is a byte piece as text <0x41>",
    "\x00\x01\x7f",
    "naïve café “quotes” – dash… İstanbul ﬁ",
    "e\u0301 combining, \u00a0 no-break,\u2003em space,\u200b\u200d\ufeff",
    "你好，世界。Привет 🙂 🧑‍🚀 \U0001f1e6\U0001f1f9 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "3.14159 1,000,000 0x7f 2²",
    "snake_case CamelCase kebab-case __dunder__ a.b.c()",
    "\ud7ff\ue000\uffff",
]


@pytest.fixture(scope="module")
def exported(tokenizer: SentencePieceProcessor, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "source.model").write_bytes(tokenizer.serialized_model_proto())
    write_tokenizer(folder / "source.model", folder, context_tokens=77)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("text", TRICKY, ids=range(len(TRICKY)))
def test_tricky_strings(exported: Any, tokenizer: SentencePieceProcessor, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert exported(text).input_ids == tokens
    assert exported.decode(tokens) == text


def test_real_text(exported: Any, tokenizer: SentencePieceProcessor, texts: list[str]) -> None:
    for text in texts:
        assert exported(text).input_ids == tokenizer.encode(text)
        assert exported.decode(tokenizer.encode(text)) == text


def test_random_strings(exported: Any, tokenizer: SentencePieceProcessor) -> None:
    """Few different parts in random order, so that merges compete."""
    rng = random.Random(1)
    parts = [
        " ",
        "  ",
        "\n",
        "a",
        "b",
        "s",
        "e",
        "the",
        "in",
        "ing",
        "self",
        ".",
        "_",
        "=",
        "==",
        "-",
        "1",
        "é",
        "你",
        "<s>",
    ]
    for _ in range(3000):
        text = "".join(rng.choices(rng.sample(parts, rng.randint(1, 5)), k=rng.randint(1, 60)))
        assert exported(text).input_ids == tokenizer.encode(text), repr(text)


def test_control_tokens_and_length(exported: Any) -> None:
    assert (exported.unk_token_id, exported.bos_token_id, exported.eos_token_id) == (0, 1, 2)
    assert exported.model_max_length == 77


def test_a_tokenizer_that_differs_is_named(tokenizer: SentencePieceProcessor, texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "source.model").write_bytes(tokenizer.serialized_model_proto())
    write_tokenizer(tmp_path / "source.model", tmp_path, context_tokens=77)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert compare_tokenizers(tmp_path, tokenizer, [*texts, *TRICKY]) == 0
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][200:]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"differs from .*tokenizer.model in \d+ of \d+ documents, first at"):
        compare_tokenizers(tmp_path, tokenizer, texts)
