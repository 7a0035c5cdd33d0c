"""Damaged, foreign and unfinished files: named, left out, and never in the way of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from sidewinder.catalog import build_catalog, query
from sidewinder.graph import Graph


def steps(graph: Graph, model: str) -> list[tuple[int, float]]:
    rows = query(
        graph.results,
        "SELECT step, loss FROM steps JOIN stages AS s USING (stage) WHERE s.model = $model AND s.kind = 'pretrain' "
        "ORDER BY step",
        {"model": model},
        live=True,
    ).rows
    return [(step, loss) for step, loss in rows]


def test_a_half_written_last_line_is_passed_over(graph: Graph) -> None:
    with (graph.stages[0].folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"event": "step", "step": 5, "lo')
    assert steps(graph, "plain") == [(1, 4.0), (2, 3.0), (3, 2.5), (4, 2.25)]
    assert build_catalog(graph.results, graph.catalog) == []


def test_rows_behind_a_resume_are_superseded(small: ModuleType, graph: Graph) -> None:
    rows = [
        {"event": "start", "from_step": 0, "time": 1.0},
        *(small.step_row(step, 9.0 - step, 128) for step in (1, 2, 3, 4)),
        {"event": "warning", "message": "a save is damaged", "time": 2.0},
        {"event": "resume", "from_step": 2, "time": 3.0},
        small.step_row(3, 5.5, 128),
        small.step_row(4, 5.0, 128),
        {"event": "rollback", "step": 5, "from_step": 3, "message": "three steps skipped", "time": 4.0},
    ]
    lines = [json.dumps(row) for row in rows]
    lines.insert(5, '{"event": "step", "st')  # What the kill cut off, closed by the next attempt.
    (graph.stages[0].folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert steps(graph, "plain") == [(1, 8.0), (2, 7.0), (3, 5.5)]
    assert build_catalog(graph.results, graph.catalog) == []
    events = query(
        graph.results,
        "SELECT event, detail->>'message' FROM events JOIN stages AS s USING (stage) WHERE s.model = 'plain' "
        "ORDER BY place",
    ).rows
    assert events == [
        ("start", None),
        ("warning", "a save is damaged"),
        ("resume", None),
        ("rollback", "three steps skipped"),
    ]


def test_broken_lines_among_steps_are_counted(graph: Graph) -> None:
    path = graph.stages[0].folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines.insert(2, "not JSON")
    path.write_text("\n".join(lines) + "\n")
    assert build_catalog(graph.results, graph.catalog) == [(str(path), "1 lines are not JSON; they are left out")]
    assert [step for step, _ in steps(graph, "plain")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"kind": "corpus", "na', "cannot be read"),
        ("[1, 2]", "is not a JSON object but list"),
        ('{"hello": 1}', "is not a record: kind, name"),
    ],
)
def test_a_corrupt_record_is_named_and_left_out(
    graph: Graph, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = graph.evaluation(graph.stages[0], "heldout") / "record.json"
    record.write_text(content)
    [(path, text)] = build_catalog(graph.results, graph.catalog)
    assert path == str(record)
    assert message in text
    assert str(record) in capsys.readouterr().err
    rows = query(graph.results, "SELECT count(*) FROM evals WHERE suite = 'heldout'").rows
    assert rows == [(4,)]
    assert query(graph.results, "SELECT path FROM warnings").rows == [(str(record),)]


def test_scores_that_differ_from_their_record_are_left_out(graph: Graph) -> None:
    scores = graph.evaluation(graph.stages[0], "phonebook") / "scores.json"
    scores.write_text(scores.read_text().replace("0.75", "0.99"))
    [(path, text)] = build_catalog(graph.results, graph.catalog)
    assert path == str(scores)
    assert "not the file that its record lists" in text
    rows = query(graph.results, "SELECT count(*) FROM current_evals WHERE model = 'plain' AND suite = 'phonebook'").rows
    assert rows == [(0,)]


def test_foreign_json_is_named(graph: Graph) -> None:
    stray = graph.results / "notes" / "mine.json"
    stray.parent.mkdir()
    stray.write_text("{}")
    (graph.stages[0].folder / "anything.json").write_text("{}")  # A job's own folder may hold what it likes.
    (graph.results / "study.json").write_text(json.dumps(graph.study.model_dump(mode="json")))
    assert [path for path, _ in build_catalog(graph.results, graph.catalog)] == [str(stray)]
    assert query(graph.results, "SELECT name, config->>'study' FROM study").rows == [("small", "small")]


def test_a_run_that_is_still_training_is_seen(small: ModuleType, graph: Graph) -> None:
    run = graph.results / "runs" / "plain-s7-0123abcd" / "pretrain-64"
    run.mkdir(parents=True)
    lines = [json.dumps(small.step_row(step, 5.0, 128)) for step in (1, 2)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n" + '{"event": "st')
    rows = query(
        graph.results,
        "SELECT s.model, s.seed, s.kind, s.context_tokens, s.status, max(m.step) FROM stages AS s JOIN steps AS m "
        "USING (stage) WHERE s.status = 'unfinished' GROUP BY ALL",
        live=True,
    ).rows
    assert rows == [("plain", 7, "pretrain", 64, "unfinished", 2)]


def test_an_empty_results_folder(tmp_path: Path) -> None:
    assert build_catalog(tmp_path, tmp_path / "study.duckdb") == []
    assert query(tmp_path, "SELECT count(*) FROM runs").rows == [(0,)]
    assert query(tmp_path, "leaderboard").rows == []
