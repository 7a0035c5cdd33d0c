"""What the report shows, read from the catalog by SQL: the study as it is now, its scores, curves, jobs, lineage."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from sidewinder.catalog.query import open_catalog, run_query

Row = dict[str, Any]

STAGES = """
SELECT s.*, r.pattern, r.layers, r.hidden_size, r.parameters, r.non_embedding_parameters, j.cpu_s, j.wall_s
FROM stages AS s JOIN runs AS r USING (run) LEFT JOIN jobs AS j USING (job)
WHERE s.current
"""
CURVES = """
SELECT
    stage, step, tokens, total_tokens, loss, sum(step_s) OVER (PARTITION BY stage ORDER BY step) AS elapsed_s
FROM steps
WHERE stage IN (SELECT stage FROM stages WHERE current) AND loss IS NOT NULL
ORDER BY stage, step
"""
SCORES = """
SELECT
    model, stage_kind, trained_context_tokens, suite, kind, task, metric, variant, context_tokens, lower_is_better,
    list(value ORDER BY seed) AS values, avg(stderr) AS stderr, sum(n)::BIGINT AS n, min(artifact) AS artifact
FROM current_evals
WHERE value IS NOT NULL
GROUP BY ALL
"""
JOBS = "SELECT * EXCLUDE (config) FROM jobs WHERE current ORDER BY started_at, job"
CODE = """
SELECT version, code_sha256, commit, dirty, count(*) AS jobs, min(started_at) AS first, max(ended_at) AS last
FROM jobs WHERE current GROUP BY ALL ORDER BY first, code_sha256
"""
MACHINES = """
SELECT host, cores, e.*, count(*) AS jobs
FROM jobs JOIN environments AS e USING (environment) WHERE current GROUP BY ALL ORDER BY environment, host
"""
SUPERSEDED = """
SELECT s.model, s.seed, s.kind, s.context_tokens, s.stage, s.final_loss, s.tokens, s.started_at
FROM stages AS s WHERE NOT s.current ORDER BY s.model, s.seed, s.context_tokens, s.stage
"""
CHANGES = """
SELECT old.stage, old.key, old.value AS was, new.value AS is
FROM params AS old
JOIN stages AS o ON o.stage = old.stage AND NOT o.current
JOIN stages AS n ON n.current AND n.model = o.model AND n.seed = o.seed AND n.kind = o.kind
    AND (n.context_tokens = o.context_tokens OR n.kind = 'pretrain')
JOIN params AS new ON new.stage = n.stage AND new.key = old.key
WHERE old.value IS DISTINCT FROM new.value
ORDER BY ALL
"""
SAMPLES = """
SELECT d.* FROM dropped_samples AS d JOIN sources AS s USING (job) WHERE s.current
ORDER BY d.source, d.place, d.reason, d.text
"""
LENGTHS = """
SELECT DISTINCT s.kind, s.context_tokens, split_part(f.key, '.', 3)::BIGINT AS from_tokens, f.number AS share
FROM facts AS f JOIN stages AS s ON s.job = f.job AND s.current WHERE f.key LIKE 'data.lengths.%'
ORDER BY ALL
"""
FILTERS = """
SELECT f.*, (SELECT string_agg(d.reason || ' ' || d.documents, ', ' ORDER BY d.documents DESC, d.reason)
             FROM dropped AS d WHERE (d.job, d.place) = (f.job, f.place) AND d.documents > 0) AS reasons
FROM cleaning AS f ORDER BY f.source, place
"""
EXPORTS = """
SELECT e.*, s.model, s.seed, s.kind, s.context_tokens
FROM exports AS e JOIN stages AS s USING (stage) WHERE e.current
"""
EVENTS = """
SELECT e.event, count(*) AS count FROM events AS e JOIN stages AS s USING (stage) WHERE s.current GROUP BY ALL
"""


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A model at the end of a stage, all seeds together. `place` orders models as the study does."""

    place: int
    context_tokens: int
    extended: bool
    model: str

    @property
    def label(self) -> str:
        return f"{self.model} {self.stage}"

    @property
    def stage(self) -> str:
        return f"{'extend' if self.extended else 'pretrain'}-{self.context_tokens}"


@dataclass(frozen=True)
class Score:
    """One score of one checkpoint over its seeds."""

    checkpoint: Checkpoint
    suite: str
    kind: str
    task: str
    metric: str
    variant: str | None
    context_tokens: int | None
    lower_is_better: bool
    values: tuple[float, ...]
    stderr: float | None
    n: int | None
    artifact: str

    @property
    def value(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds; None for one seed."""
        if len(self.values) < 2:
            return None
        return math.sqrt(math.fsum((value - self.value) ** 2 for value in self.values) / (len(self.values) - 1))

    @property
    def error(self) -> float | None:
        """What an error bar shows: the spread over seeds, for one seed the standard error over samples."""
        return self.sd if self.sd is not None else self.stderr

    @property
    def series(self) -> tuple[str, str, str, str | None]:
        return self.suite, self.task, self.metric, self.variant


@dataclass
class StudyData:
    """Everything that the report is made from."""

    name: str
    config: Row
    models: list[str]
    suites: list[str]
    checkpoints: list[Checkpoint] = field(default_factory=list)
    stages: list[Row] = field(default_factory=list)
    curves: dict[str, list[Row]] = field(default_factory=dict)
    scores: list[Score] = field(default_factory=list)
    jobs: list[Row] = field(default_factory=list)
    corpus: list[Row] = field(default_factory=list)
    filters: list[Row] = field(default_factory=list)
    dropped: list[Row] = field(default_factory=list)
    lengths: list[Row] = field(default_factory=list)
    exports: list[Row] = field(default_factory=list)
    code: list[Row] = field(default_factory=list)
    machines: list[Row] = field(default_factory=list)
    superseded: list[Row] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)
    edges: list[Row] = field(default_factory=list)
    artifacts: dict[str, Row] = field(default_factory=dict)
    warnings: list[Row] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        return sorted({stage["seed"] for stage in self.stages})

    @property
    def ended_at(self) -> datetime.datetime | None:
        return max((job["ended_at"] for job in self.jobs if job["ended_at"]), default=None)

    def place(self, model: str) -> int:
        return self.models.index(model)

    def of(self, checkpoint: Checkpoint) -> list[Row]:
        """Finished stages of a checkpoint, one a seed."""
        return [
            stage
            for stage in self.stages
            if stage["status"] == "finished" and _checkpoint(stage, self.models) == checkpoint
        ]

    def mean(self, checkpoint: Checkpoint, column: str) -> float | None:
        """Mean of a stage column over seeds."""
        values = [stage[column] for stage in self.of(checkpoint) if stage[column] is not None]
        return math.fsum(values) / len(values) if values else None


def read_study(database: Path, name: str, config: Row, models: Sequence[str], suites: Sequence[str]) -> StudyData:
    """Reads the current study from a catalog. Raises CatalogError where there is none."""
    with open_catalog(database) as connection:

        def rows(sql: str) -> list[Row]:
            return run_query(connection, sql).records()

        stages = rows(STAGES)
        named = [*models, *sorted({stage["model"] for stage in stages} - set(models))]
        data = StudyData(name, config, named, list(suites))
        data.stages = sorted(
            stages, key=lambda row: (_checkpoint(row, named), row["kind"] != "pretrain", row["seed"], row["stage"])
        )
        done = [stage for stage in data.stages if stage["status"] == "finished"]
        data.checkpoints = sorted({_checkpoint(stage, named) for stage in done}, key=_order)
        data.curves = _curves(rows(CURVES))
        data.scores = _scores(rows(SCORES), data)
        data.jobs, data.code, data.machines = rows(JOBS), rows(CODE), rows(MACHINES)
        data.corpus = rows("FROM corpus ORDER BY weight DESC NULLS LAST, source")
        data.filters, data.dropped, data.lengths = rows(FILTERS), rows(SAMPLES), rows(LENGTHS)
        data.exports = sorted(rows(EXPORTS), key=lambda row: (_order(_checkpoint(row, named)), row["seed"]))
        data.superseded, data.changes = rows(SUPERSEDED), rows(CHANGES)
        data.events = {row["event"]: row["count"] for row in rows(EVENTS)}
        data.warnings = rows("FROM warnings ORDER BY path, message")
        _read_lineage(connection, data)
    return data


def _read_lineage(connection: duckdb.DuckDBPyConnection, data: StudyData) -> None:
    data.edges = run_query(connection, "SELECT src, dst, relation FROM edges ORDER BY ALL").records()
    artifacts = run_query(connection, "SELECT artifact, path, sha256, bytes, role, job FROM artifacts").records()
    data.artifacts = {row["artifact"]: row for row in artifacts}


def _checkpoint(row: Row, models: Sequence[str], kind: str = "kind", context: str = "context_tokens") -> Checkpoint:
    return Checkpoint(models.index(row["model"]), row[context], row[kind] == "extend", row["model"])


def _order(checkpoint: Checkpoint) -> tuple[int, bool, int]:
    """Model by model, each pretrained checkpoint before its extensions."""
    return checkpoint.place, checkpoint.extended, checkpoint.context_tokens


def _curves(rows: list[Row]) -> dict[str, list[Row]]:
    curves: dict[str, list[Row]] = {}
    for row in rows:
        curves.setdefault(row["stage"], []).append(row)
    return curves


def _scores(rows: list[Row], data: StudyData) -> list[Score]:
    scores = [
        Score(
            _checkpoint(row, data.models, "stage_kind", "trained_context_tokens"),
            row["suite"],
            row["kind"] or "",
            row["task"],
            row["metric"],
            row["variant"],
            row["context_tokens"],
            row["lower_is_better"],
            tuple(row["values"]),
            row["stderr"],
            row["n"],
            row["artifact"],
        )
        for row in rows
    ]
    suites = {suite: place for place, suite in enumerate(data.suites)}
    return sorted(
        scores,
        key=lambda score: (
            suites.get(score.suite, len(suites)),
            score.suite,
            score.task,
            (score.variant or "") != "standard",
            score.variant or "",
            score.metric != "exact_match",
            score.metric,
            _order(score.checkpoint),
            score.context_tokens or 0,
        ),
    )
