"""The SentencePiece file beside the weights: copied where it belongs to them, refused where it cannot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from sidewinder.errors import CheckpointError
from sidewinder.imports.megatron import import_megatron

NAME = "mt_nlg_plus_multilingual_ja_zh_the_stack_frac_015_256k.model"
PIECES = 90


@pytest.fixture(scope="module")
def tokenizer() -> bytes:
    """A small one, trained on Python's licence."""
    text = (
        "Permission is granted to use this software for any purpose, quickly and with zeal. Box, jar; why? 0123456789"
    )
    made = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(text.split()),
        model_writer=made,
        vocab_size=PIECES,
        model_type="bpe",
        minloglevel=2,
    )
    return made.getvalue()


@pytest.fixture
def source(writer: Any, make_model: Any, tmp_path: Path, tokenizer: bytes) -> Path:
    """96 rows: 90 pieces, padded to a multiple of 16."""
    folder = writer.write_model(make_model("mamba2"), tmp_path / "in")
    (folder / NAME).write_bytes(tokenizer)
    return folder


def test_the_tokenizer_comes_along(source: Path, tmp_path: Path, tokenizer: bytes) -> None:
    info = import_megatron(source, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == tokenizer
    assert SentencePieceProcessor(model_proto=tokenizer).get_piece_size() == PIECES
    assert info.extra["tokenizer"] == NAME
    assert info.vocab_size == 96


def test_several_are_not_chosen_from(source: Path, tmp_path: Path) -> None:
    (source / "other.model").write_bytes(b"")
    assert import_megatron(source, tmp_path / "out").extra["tokenizer"] is None
    assert not (tmp_path / "out" / "tokenizer.model").exists()


def test_one_that_cannot_belong_is_refused(writer: Any, make_model: Any, source: Path, tmp_path: Path) -> None:
    (tmp_path / "narrow").mkdir()
    folder = writer.write_model(make_model("mamba2"), tmp_path / "narrow", make_vocab_size_divisible_by=4)
    (folder / NAME).write_bytes((source / NAME).read_bytes())
    with pytest.raises(CheckpointError, match=rf"{NAME} has 90 pieces, but the embedding has 96 rows") as caught:
        import_megatron(folder, tmp_path / "out")
    assert "move this one away" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no tokenizer", b"version https://git-lfs.github.com/spec/v1\n"])
def test_one_that_is_none_is_named(source: Path, tmp_path: Path, content: bytes) -> None:
    (source / NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"cannot read the tokenizer .*{NAME}"):
        import_megatron(source, tmp_path / "out")
