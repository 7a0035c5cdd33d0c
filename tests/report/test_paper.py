"""The paper's numbers, and the table that sets ours beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from sidewinder.catalog import build_catalog
from sidewinder.graph import Graph
from sidewinder.record import Job
from sidewinder.report.build import build_report
from sidewinder.report.data import StudyData, read_study
from sidewinder.report.paper_table import paper_numbers, paper_table

NATURAL = ["narrativeqa", "qasper", "multifieldqa", "quality", "hotpotqa", "2wikimqa", "musique", "trec", "triviaqa"]
SEVEN = ["winogrande", "piqa", "hellaswag", "arc_easy", "arc_challenge", "mmlu_0shot", "mmlu_5shot"]
STANDARD = [*SEVEN, "openbookqa", "truthfulqa", "pubmedqa", "race", "nq", "squadv2"]
# Row averages that the paper prints.
AVERAGES = {
    ("transformer", "3.5T", 4096): (53.17, 40.66),
    ("hybrid", "3.5T", 4096): (55.82, 40.83),
    ("transformer", "3.5T", 16_384): (53.84, 45.24),
    ("hybrid", "3.5T", 16_384): (56.27, 44.6),
    ("transformer", "3.5T", 32_768): (53.50, 45.57),
    ("hybrid", "3.5T", 32_768): (56.4, 44.16),
}


def test_the_papers_averages_come_out() -> None:
    numbers = paper_numbers()
    runs = {(run["model"], run["tokens"], run["context_tokens"]): run["scores"] for run in numbers["runs"]}
    for key, (standard, natural) in AVERAGES.items():
        assert sum(runs[key][task] for task in STANDARD) / 13 == pytest.approx(standard, abs=0.011)
        assert sum(runs[key][task] for task in NATURAL) / 9 == pytest.approx(natural, abs=0.011)
    first = {model: runs[model, "1.1T", 4096] for model in ("transformer", "mamba", "mamba2")}
    for model, wanted in (("transformer", 60.56), ("mamba", 56.71), ("mamba2", 57.28)):
        assert sum(first[model][task] for task in SEVEN) / 7 == pytest.approx(wanted, abs=0.011)
    assert all(scores.keys() <= numbers["tasks"].keys() for scores in runs.values())
    assert "mmlu_choice_0shot" not in runs["hybrid", "3.5T", 4096], "what is not printed is not there"


@pytest.fixture
def study(small: ModuleType, tmp_path: Any) -> Graph:
    """The small study with scores of three of the paper's tasks."""
    values = small.study_values(tmp_path / "results")
    values["suites"]["standard"] = {"kind": "harness", "preset": "standard"}
    graph = small.graph_of(values | {"evaluate": ["standard"]})
    small.fill_text(graph)
    scores = [
        {"task": "piqa", "metric": "acc", "value": 0.5, "stderr": 0.01, "n": 50},
        {"task": "piqa", "metric": "acc_norm", "value": 0.25, "stderr": None, "n": 50},
        {"task": "mmlu", "metric": "acc", "variant": "5-shot", "value": 0.375, "stderr": None, "n": 57},
        {"task": "mmlu_anatomy", "metric": "acc", "variant": "5-shot", "value": 0.1, "stderr": None, "n": 57},
        {"task": "squadv2", "metric": "f1", "value": 33.25, "stderr": 1.5, "n": 50},
    ]
    for stage in graph.stages:
        small.train(graph, stage)
        folder = graph.evaluation(stage, "standard")
        with Job(folder, "evaluate", "standard", {"suite": "standard"}, []) as job:
            chosen = scores if stage.model_name == "plain" else scores[:1]
            content = {"suite": "standard", "kind": "harness", "scores": chosen}
            (folder / "scores.json").write_text(json.dumps(content))
            job.output("scores", folder / "scores.json")
    build_catalog(graph.results, graph.catalog, graph.records)
    return graph


def read(graph: Graph) -> StudyData:
    config = graph.study
    return read_study(graph.catalog, config.study, config.model_dump(mode="json"), list(config.models), config.evaluate)


def test_ours_stand_beside_the_papers(study: Graph) -> None:
    table = paper_table(read(study))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["task"], row["metric"]) for row in rows] == [
        ("piqa", "acc"),
        ("piqa", "acc_norm"),
        ("mmlu_5shot", "acc (5-shot)"),
        ("squadv2", "f1"),
    ]
    hybrid, mamba = "paper: hybrid 3.5T, 4,096", "paper: mamba 1.1T, 4,096"
    assert [row[hybrid] for row in rows] == ["79.65", "79.65", "53.60", "58.67"]
    assert [row[mamba] for row in rows] == ["78.89", "78.89", "28.00", ""]
    assert [row["plain pretrain-64"] for row in rows] == ["50.00 ± 1.00", "25.00", "37.50", "33.25 ± 1.50"]
    assert [row["mixed pretrain-64"] for row in rows] == ["50.00 ± 1.00", "", "", ""]
    build_report(study)
    page = study.report.read_text()
    assert "The paper beside ours" in page
    assert "paper: hybrid 3.5T, 4,096" in page
    leaderboard = page.split("<details")[0]
    assert "mmlu_anatomy" not in leaderboard


def test_suites_that_run_the_same_task_have_a_row_each(study: Graph) -> None:
    data = read(study)
    data.scores += [replace(score, suite="again", values=(0.25,)) for score in data.scores if score.task == "mmlu"]
    table = paper_table(data)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["suite"], row["plain pretrain-64"]) for row in rows if row["task"] == "mmlu_5shot"] == [
        ("standard", "37.50"),
        ("again", "25.00"),
    ]


def test_a_study_of_other_tasks_has_no_such_section(built: Graph) -> None:
    assert "The paper beside ours" not in built.report.read_text()
