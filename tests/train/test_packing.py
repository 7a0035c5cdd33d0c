"""Training on packed and on long documents: every predicted token weighs the same, and the record tells of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.conftest import EXTENSION, VOCABULARY, study_values, write_blend

from sidewinder.config.load import parse_study
from sidewinder.config.packing import LongDocuments
from sidewinder.graph import Graph
from sidewinder.model import LanguageModel, flops_per_token, init_weights
from sidewinder.record import read_record
from sidewinder.tokens.loader import IGNORED, BlendLoader
from sidewinder.tokens.schedule import Schedule
from sidewinder.train.batch import document_starts
from sidewinder.train.engine import Engine, seen_keys
from sidewinder.train.extend import extend
from sidewinder.train.metrics import read_metrics
from sidewinder.train.parallel.world import World
from sidewinder.train.pretrain import pretrain

Make = Callable[..., Any]
PACKED = {"packing": "documents", "reset_documents": True}


def engine_of(graph: Graph, model: str, stage_of: Make, **changes: Any) -> Engine:
    stage = stage_of(graph, model)
    training = stage.training.model_copy(update=changes)
    loader = BlendLoader(graph.blend / "blend.json", training.context_tokens, 1, training.sequences, training.packing)
    made = LanguageModel(stage.model, VOCABULARY)
    init_weights(made, 1)
    return Engine(made, loader, training, World())


@pytest.mark.parametrize("model", ["transformer", "mamba", "mamba2", "hybrid"])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_loss_is_the_mean_over_predicted_tokens(make_graph: Make, stage_of: Make, model: str, micro: int) -> None:
    """In any micro-batches; the gradient's unit is the mean number of predicted tokens, the same for all steps."""
    engine = engine_of(make_graph(**PACKED), model, stage_of, micro_batch_sequences=micro)
    padded = [int((engine.batches.sequences(4 * step, 4)[1] == IGNORED).sum()) for step in range(12)]
    step = padded.index(max(padded)) + 1
    loss, norm, _ = engine.exchange(engine.gradients(step, lambda _: None), [])
    inputs, targets = map(torch.from_numpy, engine.batches.sequences(4 * step - 4, 4))
    predicted = targets.numel() - max(padded)
    assert max(padded), "the batch must hold padding"
    engine.clear()
    expected = engine.model.loss(inputs, targets, document_starts(inputs, 2))
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    unit = engine.batches.predicted_share * targets.numel()
    (expected * predicted / unit).backward()
    squared = sum(float(parameter.grad.square().sum()) for parameter in engine.parameters)
    assert norm == pytest.approx(squared**0.5, rel=1e-4)


def test_padding_does_not_change_what_is_learnt(make_graph: Make, stage_of: Make) -> None:
    """Neither other padding nor what lies in it changes the loss or the gradient of the documents before it."""
    engine = engine_of(make_graph(**PACKED), "hybrid", stage_of)
    inputs, targets = map(torch.from_numpy, engine.batches.sequences(0, 48))
    resets = document_starts(inputs, 2)
    row = next(row for row in range(48) if (targets[row] == IGNORED).sum() > 2)
    last = int((targets[row] != IGNORED).nonzero().max())
    changed = inputs.clone()
    changed[row, last + 2 :] = 7
    assert (changed != inputs).any()
    assert engine.model.loss(inputs, targets, resets) == engine.model.loss(changed, targets, resets)


def test_the_record_tells_of_padding_lengths_and_repeats(tmp_path: Path, stage_of: Make) -> None:
    long = {"documents": {"minimum_tokens": 150, "long_share": 0.5}}
    values = study_values(tmp_path, **PACKED) | {"extensions": [EXTENSION | long]}
    graph = Graph(parse_study(values))
    write_blend(graph)
    first, second = stage_of(graph, "hybrid"), stage_of(graph, "hybrid", "extend")
    pretrain(graph, first)
    extend(graph, second)
    data = read_record(first.record)["facts"]["data"]
    assert (data["packing"], data["documents"]) == ("documents", None)
    assert 0 < data["not_predicted_share"] < 0.1
    assert sum(data["lengths"].values()) == pytest.approx(1, abs=1e-5)
    longer = read_record(second.record)["facts"]["data"]
    assert longer["documents"] == LongDocuments(minimum_tokens=150, long_share=0.5).model_dump()
    assert longer["lengths"]["128"] > data["lengths"]["128"]
    assert set(longer["epochs"]) == {"text long", "text"}
    assert read_metrics(first.folder / "metrics.jsonl").steps[-1]["loss"] < 5.6


@pytest.mark.parametrize("packing", ["documents", "concatenate"])
def test_keys_are_those_of_the_tokens_own_documents(make_graph: Make, stage_of: Make, packing: str) -> None:
    engine = engine_of(make_graph(**(PACKED | {"packing": packing})), "transformer", stage_of)
    training, seen = engine.training, []
    for place in range(training.sequences):  # No more than are sampled.
        age = 0
        for token in engine.batches.sequences(place, 1)[0][0]:
            age = 1 if token == 2 else age + 1
            seen.append(age)
    assert seen_keys(engine.batches, training) == pytest.approx(sum(seen) / len(seen), rel=1e-12)
    own = flops_per_token(engine.model.config, VOCABULARY, training.context_tokens)
    assert engine.meter.flops_per_token < own


def test_keys_are_those_of_all_sources_at_any_length_of_the_stage(make_graph: Make, stage_of: Make) -> None:
    """Sequences 144 apart, as 64 of them lie in 9,216, are nearly all of one of two sources."""
    training = stage_of(make_graph(reset_documents=True, budget_tokens=9216 * 32), "transformer").training
    schedule = Schedule([0.5, 0.5], 0)

    class TwoSources:
        """One of documents as long as a sequence, one of documents of one token."""

        eos = 2

        def sequences(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
            tokens_BL = np.repeat(np.where(schedule.sources(first, count), 2, 3)[:, None], 32, axis=1)
            return tokens_BL, tokens_BL

    assert seen_keys(TwoSources(), training) == pytest.approx((16.5 + 1) / 2, rel=0.1)  # type: ignore[arg-type]
