"""Checkpoint folders outside of a study, as transformers folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceProcessor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sidewinder.errors import CheckpointError
from sidewinder.export.convert import convert_checkpoint
from sidewinder.export.target import ExportError
from sidewinder.model import LanguageModel
from sidewinder.model.checkpoint import ModelInfo, load_model, save_model
from sidewinder.tokenizer import MODEL

Case = tuple[str, LanguageModel, ModelInfo]


def save(model: LanguageModel, folder: Path, context_tokens: int = 96) -> Path:
    save_model(model, folder, context_tokens=context_tokens)
    return folder


@pytest.mark.parametrize("beside", [True, False])
def test_with_its_tokenizer(case: Case, tokenizer: SentencePieceProcessor, beside: bool, tmp_path: Path) -> None:
    """A SentencePiece model that is named is converted; files beside the checkpoint are copied."""
    wanted, model, _ = case
    checkpoint = save(model, tmp_path / "checkpoint")
    pieces = (checkpoint if beside else tmp_path) / MODEL
    pieces.write_bytes(tokenizer.serialized_model_proto())
    target, difference = convert_checkpoint(checkpoint, tmp_path / "made", tokenizer=None if beside else pieces)
    assert target.model_class == wanted
    assert difference is not None
    assert difference < 1e-4
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "made", local_files_only=True)
    assert (loaded.config.bos_token_id, loaded.config.eos_token_id) == (tokenizer.bos_id(), tokenizer.eos_id())
    assert (tmp_path / "made" / MODEL).read_bytes() == pieces.read_bytes()
    if not beside:
        converted: Any = AutoTokenizer.from_pretrained(tmp_path / "made", local_files_only=True)
        assert converted("def f(x):").input_ids == tokenizer.encode("def f(x):")


def test_weights_keep_their_dtype(case: Case, tmp_path: Path) -> None:
    _, model, _ = case
    checkpoint = save(model.to(torch.bfloat16), tmp_path / "checkpoint")
    convert_checkpoint(checkpoint, tmp_path / "made", compare=False)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "made", local_files_only=True)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    tokens_BL = torch.arange(3, 40)[None]
    with torch.no_grad():
        ours_BLV, theirs_BLV = load_model(checkpoint)[0](tokens_BL), loaded.float()(tokens_BL, use_cache=False).logits
    # StableLM's scales are ours plus one, rounded to bf16 once.
    torch.testing.assert_close(theirs_BLV, ours_BLV, rtol=0, atol=0.05 * ours_BLV.abs().max().item())


def test_what_cannot_be_converted_leaves_nothing(case: Case, tokenizer: SentencePieceProcessor, tmp_path: Path) -> None:
    _, model, _ = case
    checkpoint, made = save(model, tmp_path / "checkpoint"), tmp_path / "made"
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors \([\d,]+ bytes\)"):
        convert_checkpoint(checkpoint, made)
    weights.write_bytes(whole)
    with pytest.raises(CheckpointError, match="cannot read the model description"):
        convert_checkpoint(tmp_path, made)
    small = LanguageModel(model.config, tokenizer.get_piece_size() - 1)
    (tmp_path / MODEL).write_bytes(tokenizer.serialized_model_proto())
    with pytest.raises(CheckpointError, match=r"has 1,000 ids, but the weights have 999 rows"):
        convert_checkpoint(save(small, tmp_path / "small"), made, tokenizer=tmp_path / MODEL, compare=False)
    odd = LanguageModel(model.config.model_copy(update={"pattern": "m-"}), 99)
    with pytest.raises(ExportError, match="no transformers class holds the model with pattern 'm-'"):
        convert_checkpoint(save(odd, tmp_path / "odd"), made)
    assert not made.exists()
    assert not list(tmp_path.glob(".*"))
