"""Bits per byte against a full softmax in float64, and against arithmetic for a uniform predictor."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from sidewinder.config.load import parse_study
from sidewinder.config.suites import BitsPerByte
from sidewinder.errors import DataError
from sidewinder.evaluate import bits_per_byte, scoring
from sidewinder.evaluate.heldout import Heldout, heldout_of
from sidewinder.evaluate.subject import Subject
from sidewinder.graph import Graph

SUITE = BitsPerByte(kind="bits_per_byte", tokens_per_source=700)


@torch.no_grad()
def direct(subject: Subject, heldout: Heldout, source: str) -> float:
    """Nats over bytes, document by document and window by window, straight from the definition."""
    model, nats, size, left = subject.model.double(), 0.0, 0, SUITE.tokens_per_source
    for document in heldout.documents(source):
        tokens = [int(token) for token in document[:left]]
        left -= len(tokens)
        size += (
            len(subject.tokenizer.decode(tokens).encode()) if left else sum(len(subject.pieces[at]) for at in tokens)
        )
        before = [subject.start, *tokens]
        for first in range(0, len(tokens), subject.context_tokens):
            inputs = before[first : first + subject.context_tokens]
            targets = tokens[first : first + subject.context_tokens]
            log_softmax_LV = model(torch.tensor([inputs[: len(targets)]]))[0].log_softmax(-1)
            nats -= float(log_softmax_LV.gather(1, torch.tensor(targets)[:, None]).sum())
        if not left:
            break
    model.float()
    return nats / size / math.log(2)


def test_equals_a_direct_computation(subject: Subject, heldout: Heldout) -> None:
    subject.heldout = heldout
    scores = {score.task: score for score in bits_per_byte.run(subject, SUITE).scores}
    assert list(scores) == ["prose", "code", "lookup", "blend"]
    for source in heldout.sources:
        assert scores[source].value == pytest.approx(direct(subject, heldout, source), abs=1e-5)
        assert scores[source].stderr or scores[source].n == 1
    assert scores["blend"].value == pytest.approx(0.75 * scores["prose"].value + 0.25 * scores["code"].value)


def test_batches_change_nothing_but_rounding(
    hybrid: Subject, heldout: Heldout, monkeypatch: pytest.MonkeyPatch
) -> None:
    hybrid.heldout = heldout
    usual = bits_per_byte.run(hybrid, SUITE)
    assert bits_per_byte.run(hybrid, SUITE).scores == usual.scores, "runs must agree to the bit"
    monkeypatch.setitem(scoring.BATCH_TOKENS, "cpu", 1)
    for alone, beside in zip(bits_per_byte.run(hybrid, SUITE).scores, usual.scores, strict=True):
        assert alone.value == pytest.approx(beside.value, abs=1e-6)


def test_uniform_predictor_costs_log2_of_the_vocabulary_a_token(heldout: Heldout, predictor: Any) -> None:
    vocab_size = heldout.tokenizer.get_piece_size()
    subject = Subject("uniform", predictor(vocab_size, None), 50, heldout.tokenizer, heldout)
    outcome = bits_per_byte.run(subject, SUITE)
    for score in outcome.scores[:-1]:
        chosen = [sample for sample in outcome.samples if sample["task"] == score.task]
        tokens, size = (sum(sample[key] for sample in chosen) for key in ("tokens", "bytes"))
        assert tokens <= SUITE.tokens_per_source
        assert score.value == pytest.approx(tokens * math.log2(vocab_size) / size)
        assert score.n == len(chosen)


def test_every_token_is_predicted_once(heldout: Heldout, hybrid: Subject) -> None:
    for document in bits_per_byte.cut(hybrid, heldout, "code", 10_000):
        scored = [token for item in document.windows for token in item.tokens[1:]]
        whole = list(list(heldout.documents("code"))[document.place])
        assert scored == whole[: len(scored)]
        assert all(len(item.tokens) <= hybrid.context_tokens + 1 for item in document.windows)
        assert [item.tokens[0] for item in document.windows] == [hybrid.start, *scored][:: hybrid.context_tokens][
            : len(document.windows)
        ]


def test_a_source_without_heldout_documents_is_named(heldout: Heldout, hybrid: Subject, tmp_path: Any) -> None:
    (tmp_path / "blend.json").write_text('{"sources": {"prose": {"heldout": [{"prefix": "x", "documents": 0}]}}}')
    hybrid.heldout = replace(heldout, blend=tmp_path / "blend.json")
    with pytest.raises(DataError, match="source prose has no held-out documents"):
        bits_per_byte.run(hybrid, SUITE)


def test_look_ups_of_an_extension_need_not_have_been_made(graph: Graph) -> None:
    """They are no part of what a checkpoint is asked, and their job may come later."""
    values = graph.study.model_dump(exclude_none=True)
    extension = {"context_tokens": 128, "models": ["hybrid"], "budget_tokens": 1024, "batch_sequences": 2}
    extension |= {"learning_rate": 1e-3, "minimum_learning_rate": 1e-4, "lookup": {"share": 0.5, "documents": 8}}
    later = Graph(parse_study(values | {"extensions": [extension]}))
    assert "lookup_128" in later.source_configs
    assert heldout_of(later).artifacts == heldout_of(graph).artifacts
