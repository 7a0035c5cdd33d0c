"""What the report shows, read from the catalog by SQL: the study as it is now, its scores, curves, jobs, lineage."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from sidewinder.catalog.errors import CatalogError
from sidewinder.catalog.query import open_catalog, run_query
from sidewinder.report.questions import (
    CHANGES,
    CODE,
    CURVES,
    EVENTS,
    EXPORTS,
    FILTERS,
    JOBS,
    LENGTHS,
    MACHINES,
    POSITIONS,
    SAMPLES,
    SCORES,
    STAGES,
    SUPERSEDED,
)

Row = dict[str, Any]


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A model at the end of a stage, all seeds together. `place` orders models as the study does."""

    place: int
    context_tokens: int
    extended: bool
    model: str

    @property
    def label(self) -> str:
        """`hybrid extend-1024`."""
        return f"{self.model} {self.stage}"

    @property
    def stage(self) -> str:
        """`extend-1024`, the same for all models."""
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
    part_of: str | None = None
    """The group, such as mmlu, that the task is a part of."""

    @property
    def value(self) -> float:
        """Mean over seeds."""
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
        """What scores of several checkpoints and lengths have in common."""
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
    positions: list[Row] = field(default_factory=list)
    missing: list[Row] = field(default_factory=list)
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
        """All seeds of the study's stages, in order."""
        return sorted({stage["seed"] for stage in self.stages})

    @property
    def ended_at(self) -> datetime.datetime | None:
        """When the last job ended."""
        return max((job["ended_at"] for job in self.jobs if job["ended_at"]), default=None)

    def place(self, model: str) -> int:
        """Place of a model in the study, which picks its colour and sign. Raises ValueError for a foreign one."""
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
        data.scores, data.missing = _scores(rows(SCORES), data), rows("missing")
        data.jobs, data.code, data.machines = rows(JOBS), rows(CODE), rows(MACHINES)
        data.corpus = rows("FROM corpus ORDER BY weight DESC NULLS LAST, source")
        data.filters, data.dropped, data.lengths = rows(FILTERS), rows(SAMPLES), rows(LENGTHS)
        data.exports = sorted(rows(EXPORTS), key=lambda row: (_order(_checkpoint(row, named)), row["seed"]))
        data.superseded, data.changes = rows(SUPERSEDED), rows(CHANGES)
        data.events = {row["event"]: row["count"] for row in rows(EVENTS)}
        data.warnings = rows("FROM warnings ORDER BY path, message")
        _read_positions(connection, data)
        _read_lineage(connection, data)
    return data


def _read_positions(connection: duckdb.DuckDBPyConnection, data: StudyData) -> None:
    """The only question to the files of samples; where they are gone since, the report says so and does without."""
    try:
        rows = run_query(connection, POSITIONS).records()
    except CatalogError as error:
        data.warnings.append({"path": "samples.parquet", "message": f"cannot be read: {error.args[0]}"})
        return
    for row in rows:
        row["checkpoint"] = _checkpoint(row, data.models, "stage_kind", "trained_context_tokens")
    data.positions = sorted(
        rows,
        key=lambda row: (
            *_suite_order(row["suite"], data),
            row["task"],
            (row["variant"] or "") != "standard",
            row["variant"] or "",
            _order(row["checkpoint"]),
            row["context_tokens"] or 0,
            row["part"],
        ),
    )


def _suite_order(suite: str, data: StudyData) -> tuple[int, str]:
    """As the study names its suites."""
    return (data.suites.index(suite) if suite in data.suites else len(data.suites)), suite


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
            row["part_of"],
        )
        for row in rows
    ]
    return sorted(
        scores,
        key=lambda score: (
            *_suite_order(score.suite, data),
            score.task,
            (score.variant or "") != "standard",
            score.variant or "",
            score.metric != "exact_match",
            score.metric,
            _order(score.checkpoint),
            score.context_tokens or 0,
        ),
    )
