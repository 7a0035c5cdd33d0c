"""Samples in the catalog, and runs compared on them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sidewinder.catalog import build_catalog
from sidewinder.catalog.compare import compare
from sidewinder.catalog.errors import CatalogError
from sidewinder.catalog.query import open_catalog, query
from sidewinder.evaluate.samples import read_samples, write_samples
from sidewinder.graph import Graph, Stage
from sidewinder.record import Job

SAMPLES = 200
RIGHT = {"plain": 0.4, "mixed": 0.6}
SUBJECTS = {"art": 10, "law": 30}
SHARES = {"english": 0.75, "code": 0.25}
BITS = "bits_per_byte"


def sample(place: int, right: bool, **other: Any) -> dict[str, Any]:
    return {
        "task": "piqa",
        "prompt": f"Question {place}",
        "answer": "1",
        "prediction": str(int(right)),
        "metrics": {"acc": float(right)},
        "odd": place % 2,
    } | other


def score(task: str, metric: str, value: float) -> dict[str, Any]:
    return {"task": task, "metric": metric, "value": value, "context_tokens": 64 if task == "book" else None}


def answer(graph: Graph, stage: Stage) -> None:
    """A finished suite: 200 questions, of which the first ones are answered rightly; ten books of two; a group of two
    subjects with 10 and 30 questions, all of one right and none of the other; held-out text of two sources at unequal
    shares; and a score that no sample has.
    """
    folder, share = graph.evaluation(stage, "standard"), RIGHT[stage.model_name]
    best = "law" if stage.model_name == "plain" else "art"
    with Job(folder, "evaluate", f"{stage.model_name}-s1/x/standard", {"suite": "standard"}, []) as job:
        samples = [sample(place, place < share * SAMPLES) for place in range(SAMPLES)]
        digits = [(2 if place % 4 else 4 * share, 2 if place % 4 else 8) for place in range(20)]
        samples += [
            sample(place, place % 2 < share, task="book", name=f"book {place // 2}", context_tokens=64)
            | {"digits_right": right, "digits": whole, "metrics": {"digit_agreement": right / whole, "odd": 1.0}}
            for place, (right, whole) in enumerate(digits)
        ]
        samples += [
            sample(place, task == best, task=task) for task, count in SUBJECTS.items() for place in range(count)
        ]
        bits = {
            source: [(size, size * share + place * extra) for place, size in enumerate((10, 20, 70))]
            for source, extra in (("english", 2.0), ("code", -1.0))
        }
        samples += [
            {"task": source, "sample": place, "bytes": size, "nats": cost * math.log(2), "metrics": {BITS: cost / size}}
            for source, documents in bits.items()
            for place, (size, cost) in enumerate(documents)
        ]
        samples.append({"task": "code", "sample": 3, "bytes": 0, "nats": 5 * math.log(2), "metrics": {}})
        write_samples(folder / "samples.parquet", samples)
        english, code = (
            sum(cost for _, cost in bits["english"]) / 100,
            (sum(cost for _, cost in bits["code"]) + 5) / 100,
        )
        agreement = sum(right for right, _ in digits) / sum(whole for _, whole in digits)
        scores = [
            score("piqa", "acc", share),
            score("piqa", "best_acc", 0.9),
            score("book", "digit_agreement", agreement),
            score("subjects", "acc", SUBJECTS[best] / sum(SUBJECTS.values())),
            *(score(task, "acc", float(task == best)) for task in SUBJECTS),
            score("english", BITS, english),
            score("code", BITS, code),
            score("blend", BITS, SHARES["english"] * english + SHARES["code"] * code),
        ]
        versions = {f"{task} group": "subjects" for task in SUBJECTS}
        content = {"suite": "standard", "kind": "harness", "scores": scores, "versions": versions}
        (folder / "scores.json").write_text(json.dumps(content))
        job.output("scores", folder / "scores.json")
        job.output("samples", folder / "samples.parquet")


@pytest.fixture
def study(small: ModuleType, tmp_path: Path) -> Graph:
    values = small.study_values(tmp_path / "results")
    values["suites"]["standard"] = {"kind": "harness", "tasks": ["piqa"]}
    graph = small.graph_of(values | {"evaluate": ["heldout", "phonebook", "standard"]})
    small.write(graph.results / "study.json", json.dumps({"study": "small", "blend": SHARES | {"unread": 0.0}}))
    small.fill_text(graph)
    for stage in graph.stages:
        small.train(graph, stage)
        small.evaluate(graph, stage, "phonebook")
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
    assert query(study.results, "SELECT count(DISTINCT stage) FROM samples WHERE suite = 'standard'").rows == [(2,)]


def comparison(study: Graph, *names: str, **options: Any) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by task, length and metric."""
    with open_catalog(study.catalog) as connection:
        rows = compare(connection, *names, **options).records()
    return {(row["task"], row["length"], row["metric"]): row for row in rows}


def limits(row: dict[str, Any]) -> tuple[float, ...]:
    return tuple(float(part) for part in row["interval_95"].split(" to "))


def test_runs_are_compared_sample_by_sample(study: Graph) -> None:
    rows = comparison(study, "plain-s1", "mixed-s1/pretrain-64", suite="standard")
    piqa = rows["piqa", None, "acc"]
    assert (piqa["samples"], piqa["clusters"]) == (200, 200)
    assert (piqa["first"], piqa["second"]) == pytest.approx((0.4, 0.6))
    assert piqa["difference"] == pytest.approx(0.2)
    error = math.sqrt(0.2 * 0.8 / SAMPLES)  # Of the difference itself: 1 on a fifth of the questions, else 0.
    assert limits(piqa) == pytest.approx((0.2 - 1.96 * error, 0.2 + 1.96 * error), abs=0.006)
    assert 0 < piqa["p"] <= 0.001
    book = rows["book", 64, "digit_agreement"]
    assert (book["samples"], book["clusters"]) == (20, 10)
    same = comparison(study, "plain-s1", "plain-s1/pretrain-64", suite="standard")
    assert {(row["difference"], row["interval_95"], row["p"]) for row in same.values()} == {(0.0, None, 1.0)}


def test_what_is_compared_is_what_the_suites_report(study: Graph) -> None:
    """To rounding, and for all but the score that no mean over samples is, which is named."""
    names = ("plain-s1", "mixed-s1/pretrain-64")
    sql = (
        "SELECT task, context_tokens, metric, value FROM current_evals WHERE model = $model AND stage_kind = 'pretrain'"
    )
    rows = comparison(study, *names, every=True)
    for side, model in (("first", "plain"), ("second", "mixed")):
        scores = {row[:3]: row[3] for row in query(study.results, sql, {"model": model}).rows}
        shared = {key: value for key, value in scores.items() if key in rows}
        assert {key: row[side] for key, row in rows.items()} == pytest.approx(shared)
        assert {key[2] for key in scores.keys() - rows.keys()} <= {"best_acc", "exact_match"}  # plain has no 128.
    assert {("blend", None, BITS), ("english", None, BITS), ("code", None, BITS)} <= rows.keys()
    assert rows["blend", None, BITS]["difference"] == pytest.approx(0.2)
    assert (rows["blend", None, BITS]["clusters"], rows["code", None, BITS]["clusters"]) == (7, 4)
    with open_catalog(study.catalog) as connection:
        title = compare(connection, *names).title
    assert title.endswith("no row for what is not a mean over shared samples: piqa best_acc")
    assert "with fewer than 6 clusters no p is below 0.05" in title


def test_a_score_that_its_samples_do_not_give_has_no_row(study: Graph) -> None:
    [stage] = [stage for stage in study.stages if stage.model_name == "plain"]
    folder = study.evaluation(stage, "standard")
    with Job(folder, "evaluate", "again", {"suite": "other"}, []) as job:
        content = json.loads((folder / "scores.json").read_text())
        content["scores"][0]["value"] += 1e-4
        (folder / "scores.json").write_text(json.dumps(content))
        job.output("scores", folder / "scores.json")
        job.output("samples", folder / "samples.parquet")
    build_catalog(study.results, study.catalog, study.records)
    rows = comparison(study, "plain-s1", "mixed-s1/pretrain-64", suite="standard")
    assert ("piqa", None, "acc") not in rows
    assert ("subjects", None, "acc") in rows


def test_a_group_stands_for_its_parts(study: Graph) -> None:
    names = ("plain-s1", "mixed-s1/pretrain-64")
    rows = comparison(study, *names, suite="standard")
    assert {key[0] for key in rows} == {"piqa", "book", "subjects", "english", "code", "blend"}
    group = rows["subjects", None, "acc"]
    assert (group["first"], group["second"], group["clusters"]) == (0.75, 0.25, 40)
    every = comparison(study, *names, suite="standard", every=True)
    assert {key[0] for key in every.keys() - rows.keys()} == set(SUBJECTS)
    board = query(study.results, "leaderboard", {"suite": "standard"})
    assert board.columns[3:] == [
        f"standard {name}" for name in ("blend bits_per_byte", "piqa acc", "piqa best_acc")
    ] + ["standard subjects acc"]
    board = query(study.results, "leaderboard", {"suite": "standard", "all": "true"})
    assert "standard art acc" in board.columns


def test_runs_that_cannot_be_compared_are_named(study: Graph) -> None:
    with pytest.raises(CatalogError, match=r"'plane' names no evaluated stage\n.*plain-s1"):
        comparison(study, "plane", "mixed-s1")
    with pytest.raises(CatalogError, match="no sample in common in suite nosuch"):
        comparison(study, "plain-s1", "mixed-s1", suite="nosuch")
