"""Tasks of a user's own (`include_path`): found, scored, done again when they change, and named when they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidewinder.config.load import parse_study
from sidewinder.config.suites import Harness
from sidewinder.errors import ConfigError, DataError
from sidewinder.evaluate import harness
from sidewinder.evaluate.check import check_data
from sidewinder.evaluate.included import included_files, inputs_at
from sidewinder.evaluate.needs import needs
from sidewinder.evaluate.run import evaluate
from sidewinder.evaluate.subject import Subject
from sidewinder.evaluate.task_index import manager_for
from sidewinder.graph import Graph
from sidewinder.record import RECORD, read_record

COLOURS = ["red", "green", "blue", "white"]
TASK = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/colours.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: !function words.question
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
metadata: {{version: 3}}
"""
WORDS = "def question(doc):\n    return f'The colour of number {doc[\"number\"]} is'\n"
GROUP = "group: both\ntask: [colours, sciq]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task, the Python that it calls, the questions that it reads, and a group of it with one of lm-eval's."""
    place = tmp_path / "tasks"
    (place / "__pycache__").mkdir(parents=True)
    (place / "__pycache__/words.pyc").write_bytes(b"")
    (place / "colours.yaml").write_text(TASK.format(folder=place))
    (place / "both.yaml").write_text(GROUP)
    (place / "words.py").write_text(WORDS)
    rows = [{"number": number, "choices": COLOURS, "answer": number % 4} for number in range(12)]
    (place / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def suite_of(folder: Path, *tasks: str) -> Harness:
    return Harness(kind="harness", include_path=str(folder), tasks=list(tasks))


def test_a_model_that_knows_them_gets_all_and_one_that_does_not_a_quarter(
    folder: Path, tmp_path: Path, hybrid: Subject, predictor: Any, oracle: Any
) -> None:
    encode = hybrid.tokenizer.encode
    asked = [[encode(f"The colour of number {number} is {colour}") for colour in COLOURS] for number in range(12)]
    told = [row[number % 4] for number, row in enumerate(asked) for _ in COLOURS]
    knows = oracle([tokens for row in asked for tokens in row], [tokens + [0] * 60 for tokens in told])
    always = [row[2] for row in asked for _ in COLOURS]
    blue = oracle([tokens for row in asked for tokens in row], [tokens + [0] * 60 for tokens in always])
    for following, expected in ((knows, 1.0), (blue, 0.25)):
        subject = Subject("player", predictor(600, following), 96, hybrid.tokenizer)
        outcome = harness.run(subject, suite_of(folder, "colours"), tmp_path / str(expected))
        assert {(score.task, score.metric, score.value) for score in outcome.scores} == {("colours", "acc", expected)}
        assert outcome.versions["colours"] == "3"


def test_a_suite_is_done_again_when_its_folder_changes(folder: Path, graph: Graph) -> None:
    suites = {"own": suite_of(folder, "colours").model_dump()}
    graph = Graph(parse_study(graph.study.model_dump(mode="json") | {"suites": suites, "evaluate": ["own"]}))
    stage = graph.stages[0]
    place = graph.evaluation(stage, "own")
    started = []
    for change in (None, None, "colours.yaml", "words.py"):
        if change:
            (folder / change).write_text((folder / change).read_text() + "\n# Changed.\n")
        evaluate(graph, stage, "own")
        started.append(read_record(place / RECORD)["started_at"])
    assert started[0] == started[1] < started[2] < started[3]
    names = ["both.yaml", "colours.jsonl", "colours.yaml", "words.py"]
    assert [
        Path(entry["path"]).name for entry in read_record(place / RECORD)["inputs"] if entry["role"] == "task"
    ] == names
    assert inputs_at(graph, *place.relative_to(graph.results / "runs").parts[:2], place.name) == included_files(
        graph.study.suites["own"]
    )


def test_names_of_the_folder_go_before_lm_evals_and_groups_have_both(folder: Path) -> None:
    (folder / "colours.yaml").write_text(TASK.format(folder=folder).replace("task: colours", "task: sciq"))
    assert manager_for(["sciq"], str(folder)).task_index["sciq"].yaml_path == folder / "colours.yaml"
    assert manager_for(["sciq"]).task_index["sciq"].yaml_path != folder / "colours.yaml"
    (folder / "colours.yaml").write_text(TASK.format(folder=folder))
    wanted, unknown = needs([suite_of(folder, "both", "colours"), Harness(kind="harness", tasks=["piqa"])])
    assert [need.key for need in wanted] == ["allenai/sciq/default", "baber/piqa/default"], (
        "its own file is not fetched"
    )
    assert not unknown


def test_mistakes_are_named(folder: Path, graph: Graph) -> None:
    def checked(*tasks: str, include_path: Path = folder) -> None:
        suites = {"own": suite_of(include_path, *tasks).model_dump()}
        check_data(parse_study(graph.study.model_dump(mode="json") | {"suites": suites, "evaluate": ["own"]}))

    checked("colours")
    with pytest.raises(DataError, match=r"suites.own: unknown lm-eval task 'colour'; near: colours,"):
        checked("colour")
    with pytest.raises(ConfigError, match=f"include_path: {folder}/nowhere is no folder"):
        checked("colours", include_path=folder / "nowhere")
    (folder / "colours.yaml").write_text("task: [colours\n")
    with pytest.raises(ConfigError, match=rf"(?s)cannot read the task {folder}/colours.yaml: .*line 2"):
        checked("colours")
