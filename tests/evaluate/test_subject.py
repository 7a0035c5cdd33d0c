"""A tokenizer that is not the weights' own is told before anything is scored."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_eval.api.instance import Instance

from sidewinder.errors import CheckpointError
from sidewinder.evaluate.adapter import SidewinderLM
from sidewinder.evaluate.subject import Subject
from sidewinder.model.checkpoint import save_model


def saved(hybrid: Subject, folder: Path, rows: int, extra: dict[str, str]) -> dict[str, Path]:
    """A checkpoint with `rows` tokens beside the tokenizer of the study, as the adapter takes them."""
    model = type(hybrid.model)(hybrid.model.config, rows)
    save_model(model, folder / "checkpoint", context_tokens=96, extra=extra)
    (folder / "tokenizer.model").write_bytes(hybrid.tokenizer.serialized_model_proto())
    return {"checkpoint": folder / "checkpoint", "tokenizer": folder / "tokenizer.model"}


@pytest.mark.parametrize(
    ("rows", "extra"),
    [
        (599, {}),
        (601, {}),
        (599, {"imported_from": "megatron"}),
        (600 + 1024, {"imported_from": "megatron"}),
    ],
)
def test_a_vocabulary_of_another_size_is_refused(
    rows: int, extra: dict[str, str], hybrid: Subject, tmp_path: Path
) -> None:
    wanted = rf"checkpoint: the weights are for a vocabulary of {rows:,} tokens, the tokenizer has 600\n  remedy: give"
    with pytest.raises(CheckpointError, match=wanted):
        SidewinderLM(**saved(hybrid, tmp_path, rows, extra))


def test_spare_rows_of_an_imported_embedding_stand_for_nothing(hybrid: Subject, tmp_path: Path) -> None:
    adapter = SidewinderLM(**saved(hybrid, tmp_path, 640, {"imported_from": "megatron"}))
    assert adapter.subject.pieces[600:] == [b""] * 40
    request = Instance("loglikelihood", {}, ("a", " b"), 0)
    assert len(adapter.loglikelihood([request], disable_tqdm=True)) == 1
