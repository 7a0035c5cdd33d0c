"""The tables hold exactly what the records, metrics and scores say."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb

from sidewinder.catalog import build_catalog, query
from sidewinder.graph import Graph
from sidewinder.record import digest, file_digest


def ask(graph: Graph, sql: str, **params: Any) -> list[tuple[Any, ...]]:
    return query(graph.results, sql, params).rows


def test_number_of_rows(built: Graph) -> None:
    counts = {
        "runs": 2,
        "stages": 3,
        "checkpoints": 3,
        "attempts": 3,
        # 7 evaluations' scores: 3 stages x 2 tasks, and 2 + 2 + 3 lengths of Phonebook plus one beyond the context
        "evals": 3 * 2 + 2 + 3 + 3,
        "exports": 3,
        "sources": 1,
        "filters": 2,
        "dropped": 2,
        "dropped_samples": 1,
        "shards": 2,
        "blends": 1,
        "jobs": 6 + 3 + 6 + 3,
        "environments": 1,
        "events": 6,
        # 4 + 4 + 2 steps, each with loss, learning rate, speed, step time and memory
        "metrics": 10 * 5,
        "warnings": 0,
    }
    assert {table: ask(built, f"SELECT count(*) FROM {table}")[0][0] for table in counts} == counts


def test_steps_of_cleaning_in_tokens(built: Graph) -> None:
    rows = ask(built, "SELECT step, documents_in, documents_out, tokens_in, tokens_out FROM cleaning")
    assert rows == [("read", 12, 11, 650, 625), ("length", 11, 9, 625, 575)]


def test_runs_and_stages(built: Graph) -> None:
    runs = ask(
        built,
        "SELECT model, seed, pattern, layers, hidden_size, parameters, non_embedding_parameters, context_tokens, "
        "tokens, status, current FROM runs ORDER BY model",
    )
    assert runs == [
        ("mixed", 1, "M-", 2, 16, 2100, 1100, 128, 512 + 256, "finished", True),
        ("plain", 1, "*-", 2, 16, 2000, 1000, 64, 512, "finished", True),
    ]
    stages = ask(
        built,
        "SELECT kind, context_tokens, parent, batch_sequences, learning_rate, steps, tokens, parent_tokens, "
        "final_loss, train_s, tokens_per_s, attempts, status FROM stages WHERE model = 'mixed' ORDER BY context_tokens",
    )
    pretrain = built.stages[1]
    parent = f"{pretrain.run}/pretrain-64"
    assert stages == [
        ("pretrain", 64, None, 2, 1e-3, 4, 512, 0, 2.0, 0.64, 800.0, 1, "finished"),
        ("extend", 128, parent, 1, 5e-4, 2, 256, 512, 1.875, 0.32, 800.0, 1, "finished"),
    ]


def test_params_are_all_settings_by_dotted_key(built: Graph) -> None:
    rows = ask(
        built,
        "SELECT key, value, type FROM params JOIN stages USING (stage) WHERE model = 'plain' AND key IN "
        "('training.learning_rate', 'model.pattern', 'model.attention.rope', 'seed', 'model.norm') ORDER BY key",
    )
    assert rows == [
        ("model.attention.rope", "null", "null"),
        ("model.norm", "rmsnorm", "string"),
        ("model.pattern", "*-", "string"),
        ("seed", "1", "number"),
        ("training.learning_rate", "0.001", "number"),
    ]


def test_metrics_and_steps(built: Graph) -> None:
    rows = ask(
        built,
        "SELECT s.kind, m.step, m.tokens, m.total_tokens, m.loss FROM steps AS m JOIN stages AS s USING (stage) "
        "WHERE s.model = 'mixed' ORDER BY s.context_tokens, m.step",
    )
    assert rows == [
        ("pretrain", 1, 128, 128, 4.0),
        ("pretrain", 2, 256, 256, 2.75),
        ("pretrain", 3, 384, 384, 2.25),
        ("pretrain", 4, 512, 512, 2.0),
        ("extend", 1, 128, 640, 2.125),
        ("extend", 2, 256, 768, 1.875),
    ]
    latest = ask(
        built,
        "SELECT step, last, min, max FROM latest_metrics JOIN stages USING (stage) "
        "WHERE model = 'plain' AND name = 'loss'",
    )
    assert latest == [(4, 2.25, 2.25, 4.0)]


def test_scores_have_their_checkpoint(built: Graph) -> None:
    stage = built.stages[0]
    rows = ask(
        built,
        "SELECT e.suite, e.kind, e.task, e.metric, e.variant, e.context_tokens, e.value, e.stderr, e.n, c.path, "
        "c.sha256 FROM evals AS e JOIN checkpoints AS c ON c.artifact = e.checkpoint "
        "WHERE e.run = $run AND e.suite = 'phonebook' ORDER BY e.context_tokens",
        run=stage.run,
    )
    weights = stage.folder / "checkpoint" / "model.safetensors"
    shared = ("phonebook", "phonebook", "phonebook", "exact_match", "standard")
    assert rows == [
        (*shared, 32, 0.75, 0.0625, 16, str(weights), file_digest(weights)),
        (*shared, 64, 0.25, 0.0625, 16, str(weights), file_digest(weights)),
    ]


def test_leaderboard_takes_the_longest_trained_length(built: Graph) -> None:
    rows = ask(
        built,
        "SELECT model, trained_context_tokens, context_tokens, value, place FROM leaderboard "
        "WHERE metric = 'exact_match' ORDER BY place, model, context_tokens",
    )
    assert rows == [("mixed", 64, 64, 0.5, 1), ("mixed", 128, 128, 0.5, 1), ("plain", 64, 64, 0.25, 3)]
    lower = ask(built, "SELECT model, place FROM leaderboard WHERE task = 'blend' AND stage_kind = 'pretrain'")
    assert sorted(lower) == [("mixed", 1), ("plain", 3)]


def test_corpus(built: Graph) -> None:
    rows = ask(
        built,
        "SELECT source, weight, language, documents, bytes, tokens, heldout_documents, heldout_tokens, read_documents, "
        "dropped_documents FROM corpus",
    )
    assert rows == [("english", 1.0, "en", 8, 1000, 400, 1, 50, 12, 3)]
    steps = ask(built, "SELECT step, documents_in - documents_out FROM filters ORDER BY place")
    assert steps == [("read", 1), ("length", 2)]


def test_jobs_say_what_ran(built: Graph) -> None:
    record = json.loads((built.tokenizer / "record.json").read_text())
    rows = ask(
        built,
        "SELECT name, identity, config_sha256, code_sha256, commit, e.python FROM jobs JOIN environments AS e "
        "USING (environment) WHERE kind = 'tokenizer'",
    )
    code = record["code"]
    assert rows == [
        (
            built.tokenizer.name,
            record["identity"],
            digest(record["config"]),
            code["sha256"],
            code["commit"],
            record["environment"]["python"],
        )
    ]
    kinds = ask(built, "SELECT kind, count(*) FROM jobs GROUP BY kind ORDER BY kind")
    assert dict(kinds) == {
        "blend": 1,
        "corpus": 1,
        "deduplicate": 1,
        "evaluate": 6,
        "export": 3,
        "extend": 1,
        "pretrain": 2,
        "tokenizer": 1,
        "tokens": 2,
    }
    assert ask(built, "SELECT number FROM facts WHERE key = 'vocab_size'") == [(300.0,)]


def test_exports(built: Graph) -> None:
    rows = ask(built, "SELECT DISTINCT model_class, files, max_logit_difference, tokenizer_mismatches FROM exports")
    assert rows == [("SomeForCausalLM", 2, 2.5e-6, 0)]


def test_a_changed_setting_leaves_the_old_run_as_superseded(small: ModuleType, graph: Graph) -> None:
    values = small.study_values(graph.results)
    values["models"]["plain"]["training"] = {"learning_rate": 2e-3}
    changed = small.graph_of(values)
    small.fill(changed)
    build_catalog(changed.results, changed.catalog, changed.records)
    rows = ask(
        changed,
        "SELECT r.run, r.current, p.value FROM runs AS r JOIN params AS p USING (run) "
        "WHERE r.model = 'plain' AND p.key = 'training.learning_rate'",
    )
    assert sorted(rows) == sorted([(graph.stages[0].run, False, "0.001"), (changed.stages[0].run, True, "0.002")])
    assert {job for (job,) in ask(changed, "SELECT job FROM superseded")} == {
        f"runs/{graph.stages[0].run}/pretrain-64",
        *(
            graph.evaluation(graph.stages[0], suite).relative_to(graph.results).as_posix()
            for suite in ("heldout", "phonebook")
        ),
        graph.export(graph.stages[0]).relative_to(graph.results).as_posix(),
    }
    assert ask(changed, "SELECT count(*) FROM current_evals WHERE model = 'plain'") == [(4,)]


def test_a_file_made_anew_leaves_its_readers_stale(small: ModuleType, graph: Graph) -> None:
    job = small.Job(graph.tokenizer, "tokenizer", "bpe", {"another": "seed"}, [])
    with job:
        job.output("tokenizer", small.write(graph.tokenizer / "tokenizer.model", "other pieces"))
    build_catalog(graph.results, graph.catalog, graph.records)
    readers = {job for (job,) in ask(graph, "SELECT DISTINCT job FROM stale")}
    tokens = {graph.tokens("english", shard) for shard in graph.shards("english")}
    exports = {graph.export(stage) for stage in graph.stages}
    assert readers == {folder.relative_to(graph.results).as_posix() for folder in tokens | exports}


def test_equal_results_give_equal_tables(built: Graph, tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    build_catalog(built.results, other, built.records)
    assert contents(built.catalog) == contents(other)


def contents(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All tables with their rows in stored order."""
    with duckdb.connect(str(database), read_only=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {table: connection.execute(f"FROM {table}").fetchall() for table in tables}


def test_the_file_opens_with_duckdb_1_4(built: Graph) -> None:
    tags = ask(built, "SELECT tags['storage_version'] FROM duckdb_databases() WHERE NOT internal")
    assert tags == [("v1.4.0+",)]
