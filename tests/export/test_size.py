"""The memory that an export is said to take: the weights it counts are the model's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidewinder.config import load_study
from sidewinder.export.size import export_mem_mb, weights
from sidewinder.graph import Graph
from sidewinder.model.count import count_parameters

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize("name", ["paper-8b", "recall"])
def test_weights_are_those_of_the_models(name: str) -> None:
    study = load_study(STUDIES / f"{name}.yaml")
    for model in study.models.values():
        exact = count_parameters(model.architecture(), study.tokenizer.vocab_size).total
        assert weights(model.architecture(), study.tokenizer.vocab_size) == pytest.approx(exact, rel=5e-3)


def test_eight_billion_parameters_take_three_copies() -> None:
    graph = Graph(load_study(STUDIES / "paper-8b.yaml"))
    stage = next(stage for stage in graph.stages if stage.model_name == "hybrid")
    assert export_mem_mb(graph, stage.run, stage.name) == pytest.approx(4_000 + 3 * 4 * 8_654.5, rel=1e-3)
