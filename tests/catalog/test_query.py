"""Questions: named queries, SQL, live results, and what is said to a mistake."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sidewinder.catalog import CatalogError, Table, build_catalog, named_queries, query, render
from sidewinder.catalog.ingest import ingest
from sidewinder.evaluate.outcome import ratio_standard_error
from sidewinder.graph import Graph
from sidewinder.record import Job, file_digest

PARAMS: dict[str, dict[str, str]] = {
    "lineage": {"of": "mixed-s1/extend-128/phonebook"},
    "downstream": {"of": "tokenizer.model"},
    "diff": {"a": "mixed-s1", "b": "plain-s1"},
    "parting": {"a": "mixed", "b": "plain"},
}


def test_lineage_of_a_score_is_exactly_its_chain(built: Graph) -> None:
    pretrain, extend = built.stages[1], built.stages[2]
    corpus, tokens = built.corpus("english"), [built.tokens("english", shard) for shard in built.shards("english")]
    jobs = [
        built.evaluation(extend, "phonebook"),
        extend.folder,
        pretrain.folder,
        built.blend,
        *tokens,
        built.tokenizer,
    ]
    files = [
        extend.folder / "checkpoint/model.safetensors",
        extend.folder / "checkpoint/model.json",
        pretrain.folder / "checkpoint/model.safetensors",
        built.blend / "blend.json",
        *(folder / name for folder in tokens for name in ("tokens.bin", "tokens.idx")),
        built.tokenizer / "tokenizer.model",
        *(corpus / name for name in ("heldout-00000.jsonl.zst", "summary.json")),
        *(corpus / "train-00000" / name for name in ("text.jsonl.zst", "heldout.jsonl.zst")),
    ]
    expected = {("job", job.relative_to(built.results).as_posix()) for job in [*jobs, corpus, corpus / "train-00000"]}
    expected |= {("artifact", str(path)) for path in files} | {("artifact", "somepackage==1.2")}
    table = query(built.results, "lineage", {"of": "mixed-s1/extend-128/phonebook"})
    found = table.records()
    assert {(row["what"], row["name"]) for row in found} == expected
    assert len(found) == len(expected)
    digests = {row["name"]: row["sha256"] for row in found if row["what"] == "artifact"}
    assert digests == {str(path): file_digest(path) for path in files} | {"somepackage==1.2": "ab" * 32}
    [source] = [row for row in found if row["kind"] == "package"]
    assert source["depth"] == max(row["depth"] for row in found)
    assert all(row["config_sha256"] and row["code_sha256"] for row in found if row["what"] == "job")


def test_lineage_starts_from_a_file_or_a_digest_too(built: Graph) -> None:
    scores = built.evaluation(built.stages[0], "heldout") / "scores.json"
    by_path = query(built.results, "lineage", {"of": str(scores)})
    by_digest = query(built.results, "lineage", {"of": file_digest(scores)[:16]})
    assert by_path.rows == by_digest.rows
    assert by_path.records()[0]["name"] == str(scores)
    nothing = query(built.results, "lineage", {"of": "no such thing"})
    assert nothing.rows == []


def test_one_sql_query_goes_from_a_score_to_sources_code_and_config(built: Graph) -> None:
    """The chain that the README promises, written out without the named query."""
    sql = """
        WITH RECURSIVE up(node) AS (
            SELECT artifact FROM evals WHERE run = $run AND suite = 'phonebook'
            UNION SELECT edges.src FROM up JOIN edges ON edges.dst = up.node
        )
        SELECT DISTINCT
            (SELECT list(sha256) FROM up JOIN artifacts ON artifact = node WHERE role = 'package') AS sources,
            (SELECT list(sha256) FROM up JOIN artifacts ON artifact = node WHERE role = 'tokenizer') AS tokenizer,
            (SELECT list(DISTINCT code_sha256) FROM up JOIN jobs ON job = node) AS code,
            (SELECT config->>'$.training.learning_rate' FROM up JOIN jobs ON job = node WHERE kind = 'pretrain') AS rate
    """
    [row] = query(built.results, sql, {"run": built.stages[0].run}).rows
    code = json.loads(built.stages[0].record.read_text())["code"]["sha256"]
    assert row == (["ab" * 32], [file_digest(built.tokenizer / "tokenizer.model")], [code], "0.001")


def test_downstream_of_a_model_is_what_was_made_of_it(built: Graph) -> None:
    pretrain, extend = built.stages[1], built.stages[2]
    table = query(built.results, "downstream", {"of": "mixed-s1/pretrain-64"})
    jobs = {row["name"] for row in table.records() if row["what"] == "job"}
    folders = [pretrain.folder, extend.folder]
    for stage in (pretrain, extend):
        folders += [built.evaluation(stage, suite) for suite in ("heldout", "phonebook")] + [built.export(stage)]
    assert jobs == {folder.relative_to(built.results).as_posix() for folder in folders}


def test_diff_is_exactly_what_differs(small: ModuleType, graph: Graph) -> None:
    values = small.study_values(graph.results)
    values["models"]["plain"]["training"] = {"learning_rate": 2e-3}
    changed = small.graph_of(values)
    small.fill(changed)
    build_catalog(changed.results, changed.catalog, changed.records)
    old = graph.stages[0].run
    table = query(changed.results, "diff", {"a": old, "b": "plain-s1"})
    assert table.columns == ["key", "a", "b"]
    assert table.rows == [("training.learning_rate", "0.001", "0.002")]
    same = query(changed.results, "diff", {"a": f"{old}/pretrain-64", "b": old})
    assert same.rows == []


def test_diff_of_a_stage_and_its_extension_names_the_checkpoint(built: Graph) -> None:
    extend = built.stages[2]
    table = query(built.results, "diff", {"a": "mixed-s1", "b": f"{extend.run}/{extend.name}"})
    found = {row[0]: row[1:] for row in table.rows}
    assert found["training.context_tokens"] == ("64", "128")
    assert found["kind"] == ("pretrain", "extend")
    weights = built.stages[1].folder / "checkpoint" / "model.safetensors"
    assert found[f"input.checkpoint.{weights}"] == (None, file_digest(weights)[:12])


@pytest.mark.parametrize("name", sorted(named_queries()))
def test_every_named_query_runs_built_and_live(built: Graph, name: str) -> None:
    from_file = query(built.results, name, PARAMS.get(name))
    live = query(built.results, name, PARAMS.get(name), live=True, current=built.records)
    assert live == from_file
    assert from_file.title == named_queries()[name].title
    if name not in ("superseded", "stale"):
        assert from_file.rows


def test_live_tables_equal_the_built_ones(built: Graph) -> None:
    import duckdb

    with duckdb.connect(":memory:") as live, duckdb.connect(str(built.catalog), read_only=True) as file:
        ingest(live, built.results, built.records)
        names = [name for (name,) in file.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        assert len(names) > 15
        for name in names:
            assert live.execute(f"FROM {name}").fetchall() == file.execute(f"FROM {name}").fetchall(), name


def test_leaderboard_has_tasks_as_columns(built: Graph) -> None:
    table = query(built.results, "leaderboard")
    assert table.columns == ["model", "stage", "context", "heldout bits_per_byte", "phonebook standard exact_match"]
    assert table.rows == [
        ("mixed", "pretrain", 64, 2.25, 0.5),
        ("plain", "pretrain", 64, 2.5, 0.25),
        ("mixed", "extend", 128, 2.25, 0.5),
    ]
    every = query(built.results, "leaderboard", {"suite": "heldout", "all": "true"})
    assert every.columns[3:] == ["heldout blend bits_per_byte", "heldout english bits_per_byte"]


def test_loss_can_be_thinned(built: Graph) -> None:
    table = query(built.results, "loss", {"model": "plain", "every": "2"})
    assert [(row["step"], row["total_tokens"], row["loss"]) for row in table.records()] == [
        (2, 256, 3.0),
        (4, 512, 2.25),
    ]


def test_parting_is_told_step_by_step(built: Graph) -> None:
    table = query(built.results, "parting", {"a": "plain", "b": "mixed"})
    assert table.rows == [(1, "pretrain", 64, 4, 0.25, 2, 0.1875, 0.25, -0.25)]


def test_positions_are_those_of_the_questions(built: Graph) -> None:
    """Four books with an entry in each quarter, of which 0, 1, 1 and 2 are remembered."""
    table = query(built.results, "positions", {"model": "plain", "length": "64"})
    assert table.columns[6:] == ["part", "exact_match", "sd", "stderr", "digit_agreement", "seeds", "n"]
    shared = ("phonebook", "phonebook", "standard", "plain", "pretrain-64", 64)
    # Of the four digits of the others one is right in every other book.
    assert table.rows == [
        (*shared, 1, 0.0, None, 0.0, 2 / 16, 1, 4),
        (*shared, 2, 0.25, None, 0.25, 6 / 16, 1, 4),
        (*shared, 3, 0.25, None, 0.25, 6 / 16, 1, 4),
        (*shared, 4, 0.5, None, pytest.approx(math.sqrt(1 / 12)), 9 / 16, 1, 4),
    ]
    halves = query(built.results, "positions", {"model": "plain", "length": "64", "parts": "2"}).records()
    assert [(row["part"], row["exact_match"], row["n"]) for row in halves] == [(1, 0.125, 8), (2, 0.375, 8)]


def test_suites_of_the_same_task_are_not_taken_for_seeds(small: ModuleType, tmp_path: Path) -> None:
    values = small.study_values(tmp_path / "results", extensions=[], export=False)
    values["suites"]["other"] = values["suites"]["phonebook"] | {"seed": 2}
    values["suites"]["more"] = values["suites"]["heldout"] | {"tokens_per_source": 9}
    graph = small.graph_of(values | {"evaluate": ["phonebook", "other", "heldout", "more"]})
    small.fill_text(graph)
    for stage in graph.stages:
        small.train(graph, stage)
        small.evaluate(graph, stage, "phonebook")
        small.evaluate(graph, stage, "other", shift=0.125)
        small.evaluate(graph, stage, "heldout")
        small.evaluate(graph, stage, "more", shift=0.125)
    build_catalog(graph.results, graph.catalog, graph.records)
    lengths = query(graph.results, "lengths", {"model": "plain"})
    assert lengths.columns[:2] == ["suite", "task"]
    found = [(row["suite"], row["context_tokens"], row["value"], row["seeds"], row["n"]) for row in lengths.records()]
    assert found == [
        ("other", 32, 0.875, 1, 16),
        ("other", 64, 0.375, 1, 16),
        ("phonebook", 32, 0.75, 1, 16),
        ("phonebook", 64, 0.25, 1, 16),
    ]
    places = query(graph.results, "positions", {"model": "plain", "length": "64", "parts": "1"}).records()
    assert [(row["suite"], row["exact_match"], row["n"]) for row in places] == [
        ("other", 0.375, 16),
        ("phonebook", 0.25, 16),
    ]
    bits = [row for row in query(graph.results, "bpb", {"model": "plain"}).records() if row["source"] == "blend"]
    assert [(row["suite"], row["bits_per_byte"], row["seeds"]) for row in bits] == [
        ("heldout", 2.5, 1),
        ("more", 2.625, 1),
    ]
    for name, suite in (("lengths", "other"), ("positions", "other"), ("bpb", "more")):
        assert {row["suite"] for row in query(graph.results, name, {"suite": suite}).records()} == {suite}


def test_the_error_by_place_takes_a_prompts_questions_as_one(built: Graph) -> None:
    [row] = query(
        built.results,
        "FROM positions(1) WHERE model = 'mixed' AND context_tokens = 128 AND trained_context_tokens = 64",
    ).records()
    asked = query(
        built.results,
        "SELECT sum(exact), count(*) FROM look_ups WHERE model = 'mixed' "
        "AND context_tokens = 128 AND trained_context_tokens = 64 GROUP BY prompt ORDER BY prompt",
    ).rows
    rights, wholes = ([float(pair[place]) for pair in asked] for place in (0, 1))
    assert row["stderr"] == pytest.approx(ratio_standard_error(rights, wholes))


def test_what_could_not_be_done_is_told_with_its_reason(small: ModuleType, graph: Graph) -> None:
    stage = graph.stages[0]
    folder = graph.evaluation(stage, "heldout")
    with Job(folder, "evaluate", "again", {"suite": "other"}, []) as job:
        job.output("scores", folder / "scores.json")
        job.facts = {"missing": {"piqa-0shot": "no data"}, "truncated": 3, "truncated_by_task": {"race-0shot": 3}}
        job.facts |= {"lengths_left_out": {}, "skipped_by_task": {"ruler_qa_hotpot-0shot-4096": 2}}
    rows = query(graph.results, "missing", {"model": "plain"}, live=True).rows
    shared = ("plain", 1, "pretrain-64")
    assert rows == [
        (*shared, "heldout", "cut short", "race-0shot", "3 requests longer than the context, cut to fit"),
        (
            *(*shared, "heldout", "questions", "ruler_qa_hotpot-0shot-4096"),
            "2 with more text than the length holds, passed over",
        ),
        (*shared, "heldout", "task", "piqa-0shot", "no data"),
        *((*shared, "phonebook", "length", length, reason) for length, reason in small.LEFT_OUT.items()),
    ]
    assert query(graph.results, "missing", {"suite": "heldout"}, live=True).rows == rows[:3]


def test_memory_of_the_device_stands_beside_that_of_the_process(built: Graph) -> None:
    record = json.loads(built.stages[0].record.read_text())
    [row] = [row for row in query(built.results, "throughput").records() if row["model"] == "plain"]
    assert row["device_memory_mib"] == 1.0  # 1,000,000 bytes at every step.
    assert row["process_memory_mib"] == round(record["peak_memory_bytes"] / 2**20)


@pytest.mark.parametrize(
    ("text", "params", "message"),
    [
        ("leaderbord", {}, "unknown query 'leaderbord'; nearest: leaderboard"),
        ("lineage", {}, "query lineage: parameter 'of' is missing"),
        ("loss", {"modell": "plain"}, "unknown parameter 'modell'; nearest: model"),
        ("SELECT nosuch FROM runs", {}, r'(?s)"nosuch" not found.*LINE 1.*remedy: tables: .*runs'),
        ("SELECT * FROM run", {}, r"(?s)Table with name run does not exist"),
        ("SELEC 1", {}, "(?s)syntax error.*LINE 1"),
        ("DELETE FROM runs", {}, "read-only, but this is DELETE"),
        ("COPY runs TO '/tmp/x.csv'", {}, "read-only, but this is COPY"),
        ("SELECT 1; SELECT 2", {}, "one statement at a time, got 2"),
        ("SELECT * FROM runs WHERE model = $model", {}, r"no value for \$model"),
    ],
)
def test_mistakes_are_explained(built: Graph, text: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        query(built.results, text, params)


def test_live_results_are_read_only_too(built: Graph, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="read-only, but this is COPY"):
        query(built.results, f"COPY runs TO '{tmp_path / 'runs.csv'}'", live=True)


def test_a_missing_catalog_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"(?s)no catalog at .*study.duckdb.*run the study.*--live"):
        query(tmp_path, "leaderboard")
    with pytest.raises(CatalogError, match="no results folder"):
        query(tmp_path / "nowhere", "leaderboard", live=True)


TABLE = Table(["name", "value", "sha256"], [("a|b", 0.123456789, "ab" * 32), (None, float("nan"), None)], "A title")


def test_rendering_as_csv_and_json_is_exact() -> None:
    rows = list(csv.reader(io.StringIO(render(TABLE, "csv"))))
    assert rows == [["name", "value", "sha256"], ["a|b", "0.123456789", "ab" * 32], ["", "nan", ""]]
    assert json.loads(render(TABLE, "json")) == [
        {"name": "a|b", "value": 0.123456789, "sha256": "ab" * 32},
        {"name": None, "value": None, "sha256": None},
    ]


def test_rendering_for_people() -> None:
    lines = render(TABLE, "table").splitlines()
    assert lines[0] == "A title"
    assert lines[-1] == "(2 rows)"
    assert "0.123457" in render(TABLE, "table")
    assert "ab" * 6 + "\n" in render(TABLE, "table") + "\n"  # A digest is cut to its first digits.
    assert render(TABLE, "markdown").splitlines() == [
        "| name | value | sha256 |",
        "| --- | --: | --- |",
        f"| a\\|b | 0.123457 | {'ab' * 32} |",
        "|  | nan |  |",
    ]
    narrow = render(TABLE, "table", width=30)
    assert max(len(line) for line in narrow.splitlines()[2:-1]) <= 30
    with pytest.raises(CatalogError, match="unknown format 'xml'"):
        render(TABLE, "xml")
