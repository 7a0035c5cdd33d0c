"""Samples in the catalog, and runs compared on them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sidewinder.catalog import build_catalog
from sidewinder.catalog.compare import bootstrap, compare
from sidewinder.catalog.errors import CatalogError
from sidewinder.catalog.query import open_catalog, query
from sidewinder.evaluate.samples import read_samples, write_samples
from sidewinder.graph import Graph, Stage
from sidewinder.record import Job

SAMPLES = 200
RIGHT = {"plain": 0.4, "mixed": 0.6}


def sample(place: int, right: bool, **other: Any) -> dict[str, Any]:
    return {
        "task": "piqa",
        "prompt": f"Question {place}",
        "answer": "1",
        "prediction": str(int(right)),
        "metrics": {"acc": float(right)},
        "odd": place % 2,
    } | other


def answer(graph: Graph, stage: Stage) -> None:
    """A finished suite of 200 questions, of which the first ones are answered rightly, and ten books of two."""
    folder, share = graph.evaluation(stage, "standard"), RIGHT[stage.model_name]
    with Job(folder, "evaluate", f"{stage.model_name}-s1/x/standard", {"suite": "standard"}, []) as job:
        samples = [sample(place, place < share * SAMPLES) for place in range(SAMPLES)]
        books = [
            sample(place, place % 2 < share, task="book", name=f"book {place // 2}", context_tokens=64)
            for place in range(20)
        ]
        write_samples(folder / "samples.parquet", samples + books)
        (folder / "scores.json").write_text(json.dumps({"suite": "standard", "kind": "harness", "scores": []}))
        job.output("scores", folder / "scores.json")
        job.output("samples", folder / "samples.parquet")


@pytest.fixture
def study(small: ModuleType, tmp_path: Path) -> Graph:
    values = small.study_values(tmp_path / "results")
    values["suites"]["standard"] = {"kind": "harness", "tasks": ["piqa"]}
    graph = small.graph_of(values | {"evaluate": ["heldout", "phonebook", "standard"]})
    small.fill_text(graph)
    for stage in graph.stages:
        small.train(graph, stage)
        answer(graph, stage)
    build_catalog(graph.results, graph.catalog, graph.records)
    return graph


def test_samples_are_kept_as_they_are(tmp_path: Path) -> None:
    samples = [sample(place, True, prompt="a\nb " * place, context_tokens=place or None) for place in range(600)]
    write_samples(tmp_path / "one.parquet", samples[:500])
    write_samples(tmp_path / "two.parquet", samples[500:])
    write_samples(tmp_path / "all.parquet", [], [tmp_path / "one.parquet", tmp_path / "two.parquet"])
    rows = read_samples(tmp_path / "all.parquet")
    assert [row["prompt"] for row in rows] == [each["prompt"] for each in samples]
    assert rows[3] == {
        "task": "piqa",
        "variant": None,
        "context_tokens": 3,
        "sample": 0,
        "prompt": "a\nb a\nb a\nb ",
        "answer": "1",
        "prediction": "1",
        "metrics": {"acc": 1.0},
        "details": {"odd": 1},
    }


def test_samples_can_be_asked_for(study: Graph) -> None:
    text = (
        "SELECT stage, count(*), avg(metrics['acc']), sum((details->>'odd')::INT) FROM samples "
        "WHERE task = 'piqa' AND suite = 'standard' GROUP BY stage ORDER BY stage"
    )
    for live in (False, True):
        rows = query(study.results, text, live=live, current=study.records).rows
        assert [row[1:] for row in rows] == [(200, 0.6, 100), (200, 0.6, 100), (200, 0.4, 100)]


def test_a_file_that_is_not_as_recorded_is_named(study: Graph) -> None:
    path = study.evaluation(study.stages[0], "standard") / "samples.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    warnings = build_catalog(study.results, study.catalog, study.records)
    assert [message for where, message in warnings if where == str(path)] == [
        "is missing or not the file that its record lists; its samples are left out"
    ]
    assert query(study.results, "SELECT count(DISTINCT stage) FROM samples").rows == [(2,)]


def test_runs_are_compared_sample_by_sample(study: Graph) -> None:
    with open_catalog(study.catalog) as connection:
        rows = compare(connection, "plain-s1", "mixed-s1/pretrain-64").records()
        assert [(row["task"], row["metric"], row["samples"]) for row in rows] == [
            ("book", "acc", 20),
            ("piqa", "acc", 200),
        ]
        piqa = rows[1]
        assert (piqa["first"], piqa["second"]) == pytest.approx((0.4, 0.6))
        assert piqa["difference"] == pytest.approx(0.2)
        low, high = (float(part) for part in piqa["interval_95"].split(" to "))
        error = math.sqrt(0.2 * 0.8 / SAMPLES)  # Of the difference itself: 1 on a fifth of the questions, else 0.
        assert (low, high) == pytest.approx((0.2 - 1.96 * error, 0.2 + 1.96 * error), abs=0.006)
        assert piqa["p"] == 0
        same = compare(connection, "plain-s1", "plain-s1/pretrain-64", "standard").records()
        assert {(row["difference"], row["p"]) for row in same} == {(0.0, 1.0)}
        with pytest.raises(CatalogError, match=r"'plane' names no evaluated stage\n.*plain-s1"):
            compare(connection, "plane", "mixed-s1")
        with pytest.raises(CatalogError, match="no sample in common in suite heldout"):
            compare(connection, "plain-s1", "mixed-s1", "heldout")


def test_questions_about_one_book_are_drawn_together() -> None:
    rng = np.random.default_rng(3)
    books = np.repeat(rng.normal(size=50), 4)
    alone = bootstrap(books, list(range(200)))
    together = bootstrap(books, [place // 4 for place in range(200)])
    assert alone.mean == together.mean
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(2, rel=0.1)
