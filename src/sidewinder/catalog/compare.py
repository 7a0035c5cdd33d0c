"""Two runs on the same samples: the difference of each score, with an interval and a test for paired answers.

Both models answered the same questions, so what varies is the difference of each sample, not each model's score: the
interval is far narrower than two standard errors beside each other suggest. Questions about the same book are taken
together. A row says what the suite itself reports for either run: a score that the sums of its samples do not give,
such as a perplexity, has no row.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import duckdb
import numpy as np

from sidewinder.catalog.errors import CatalogError
from sidewinder.catalog.paired import LEAST_CLUSTERS, Stratum, difference
from sidewinder.catalog.table import Table

CLOSE = 1e-6
"""Relative difference up to which a score is what its samples give."""
SCORED = """
SELECT e.suite, e.task, e.variant, e.context_tokens, e.metric, e.value AS first, f.value AS second
FROM evals AS e JOIN evals AS f ON f.suite = e.suite AND f.task = e.task AND f.metric = e.metric
    AND f.variant IS NOT DISTINCT FROM e.variant AND f.context_tokens IS NOT DISTINCT FROM e.context_tokens
WHERE e.stage = $first AND f.stage = $second AND e.current AND f.current
    AND ($suite IS NULL OR e.suite = $suite) AND ($every OR e.part_of IS NULL)
ORDER BY ALL
"""
# Sums of each cluster by score. Bits per byte and digits are counted in the bytes and digits of a sample, all else in
# samples; a group's samples are those of its tasks; the blend is a mean over its sources by their shares in the study.
CLUSTERS = """
WITH RECURSIVE member(suite, task, part) AS (
    SELECT DISTINCT suite, task, task FROM evals WHERE stage = $first AND current
    UNION
    SELECT m.suite, e.part_of, m.part FROM member AS m JOIN evals AS e ON e.suite = m.suite AND e.task = m.task
    WHERE e.stage = $first AND e.current AND e.part_of IS NOT NULL
), answer AS (
    SELECT
        stage, suite, task, variant, context_tokens, sample, md5(coalesce(prompt, '')) AS prompt,
        concat_ws(' ', task, coalesce(details->>'name', details->>'book', CAST(sample AS VARCHAR))) AS cluster,
        metrics, name,
        CASE name
            WHEN 'bits_per_byte' THEN CAST(details->>'nats' AS DOUBLE) / ln(2)
            WHEN 'digit_agreement' THEN CAST(details->>'digits_right' AS DOUBLE)
        END AS counted,
        CASE name
            WHEN 'bits_per_byte' THEN CAST(details->>'bytes' AS DOUBLE)
            WHEN 'digit_agreement' THEN CAST(details->>'digits' AS DOUBLE)
        END AS whole
    FROM samples, unnest(
        if(details->>'nats' IS NULL, map_keys(metrics), list_distinct(['bits_per_byte'] || map_keys(metrics)))
    ) AS names(name)
    WHERE stage IN ($first, $second) AND current AND ($suite IS NULL OR suite = $suite)
), pair AS (
    SELECT
        a.*, coalesce(a.counted, a.metrics[a.name]) AS one, coalesce(b.counted, b.metrics[b.name]) AS other
    FROM answer AS a JOIN answer AS b ON b.suite = a.suite AND b.task = a.task AND b.name = a.name
        AND b.sample = a.sample AND b.prompt = a.prompt AND b.whole IS NOT DISTINCT FROM a.whole
        AND b.variant IS NOT DISTINCT FROM a.variant AND b.context_tokens IS NOT DISTINCT FROM a.context_tokens
    WHERE a.stage = $first AND b.stage = $second
)
SELECT
    p.suite, m.task, p.variant, p.context_tokens, p.name, '' AS stratum, 1.0 AS share, p.cluster,
    sum(p.one), sum(p.other), sum(coalesce(p.whole, 1.0)), count(*)
FROM pair AS p JOIN member AS m ON m.suite = p.suite AND m.part = p.task
GROUP BY ALL
UNION ALL
SELECT suite, 'blend', variant, context_tokens, name, task, share, cluster, sum(one), sum(other), sum(whole), count(*)
FROM pair JOIN (
    SELECT unnest(json_keys(config->'blend')) AS task, CAST(config->'blend'->>task AS DOUBLE) AS share FROM study
) USING (task)
WHERE share > 0 AND name = 'bits_per_byte'
GROUP BY ALL
ORDER BY ALL
"""
COLUMNS = ["suite", "task", "variant", "length", "metric"]
NUMBERS = ["samples", "clusters", "first", "second", "difference", "interval_95", "p"]
STAGES = """
SELECT DISTINCT f.stage FROM sample_files AS f JOIN stages AS s USING (stage) WHERE f.current ORDER BY f.stage
"""


@dataclass(frozen=True)
class Part:
    """One stratum of a score as its clusters_N give it: sums of both models, and what they are counted in."""

    share: float
    first: np.ndarray
    second: np.ndarray
    wholes: np.ndarray
    samples: int


def compare(
    connection: duckdb.DuckDBPyConnection, first: str, second: str, suite: str | None = None, every: bool = False
) -> Table:
    """One row a score that both have and that their samples with equal prompts give.

    `every` adds the parts of groups, such as MMLU's subjects. A run is named as people do (`hybrid-s1`: its last
    stage), or with its stage (`hybrid-s1/extend-1024`). Raises CatalogError for an unknown one, and where the two share
    no sample.
    """
    stages = [stage_of(connection, name) for name in (first, second)]
    named = {"first": stages[0], "second": stages[1], "suite": suite}
    found = _parts(connection.execute(CLUSTERS, named).fetchall())
    if not found:
        raise CatalogError(
            f"{stages[0]} and {stages[1]} have no sample in common" + (f" in suite {suite}" if suite else ""),
            remedy="evaluate both with the same suite, and name it with --suite where they have several",
        )
    rows, left_out = [], []
    for *key, one, other in connection.execute(SCORED, named | {"every": every}).fetchall():
        parts = found.get(tuple(key), [])
        if _gives([part.first for part in parts], parts, one) and _gives([part.second for part in parts], parts, other):
            rows.append((*key, *_numbers(parts, one, other)))
        else:
            left_out.append(" ".join(str(key[place]) for place in (1, 2, 3, 4) if key[place] is not None))
    return Table(COLUMNS + NUMBERS, rows, _title(stages, rows, left_out))


def _parts(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], list[Part]]:
    """Strata by (suite, task, variant, length, metric)."""
    groups: dict[tuple[Any, ...], dict[str, list[tuple[Any, ...]]]] = defaultdict(lambda: defaultdict(list))
    for *key, stratum, share, _, one, other, whole, samples in rows:
        groups[tuple(key)][stratum].append((share, one, other, whole, samples))
    return {key: [_part(clusters) for clusters in strata.values()] for key, strata in groups.items()}


def _part(clusters: list[tuple[Any, ...]]) -> Part:
    shares, first, second, wholes, samples = (np.array(column, float) for column in zip(*clusters, strict=True))
    return Part(float(shares[0]), first, second, wholes, int(samples.sum()))


def _gives(sums: list[np.ndarray], parts: list[Part], score: float | None) -> bool:
    """Whether a run's sums give the score that its suite reports."""
    wholes = [float(part.wholes.sum()) for part in parts]
    if score is None or not parts or not all(wholes):
        return False
    total = math.fsum(part.share for part in parts)
    value = math.fsum(
        part.share * float(own.sum()) / whole for part, own, whole in zip(parts, sums, wholes, strict=True)
    )
    return math.isclose(value / total, score, rel_tol=CLOSE, abs_tol=CLOSE)


def _numbers(parts: list[Part], first: float, second: float) -> tuple[Any, ...]:
    found = difference([Stratum(part.second - part.first, part.wholes, part.share) for part in parts])
    shown = None if found.interval is None else "{:+.4f} to {:+.4f}".format(*found.interval)
    return sum(part.samples for part in parts), found.clusters, first, second, found.value, shown, found.p


def _title(stages: list[str], rows: list[tuple[Any, ...]], left_out: list[str]) -> str:
    parts = [f"{stages[1]} minus {stages[0]}, paired by cluster"]
    if any(row[len(COLUMNS) + 1] < LEAST_CLUSTERS for row in rows):
        parts.append(f"with fewer than {LEAST_CLUSTERS} clusters no p is below 0.05")
    if left_out:
        parts.append(f"no row for what is not a mean over shared samples: {', '.join(left_out)}")
    return "; ".join(parts)


def stage_of(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """The one current, evaluated stage that a name begins; of a run alone, its last."""
    known = [row[0] for row in connection.execute(STAGES).fetchall()]
    run, _, stage = name.partition("/")
    found = [one for one in known if _begins(one.split("/")[0], run) and _begins(one.split("/")[1], stage)]
    if not stage and len({one.split("/")[0] for one in found}) == 1:
        order = connection.execute(
            "SELECT stage FROM stages WHERE list_contains($stages, stage) ORDER BY context_tokens, stage",
            {"stages": found},
        ).fetchall()
        return str(order[-1][0])
    if len(found) == 1:
        return found[0]
    near = ", ".join(found or get_close_matches(name, known, n=4, cutoff=0.0)) or "none"
    what = "several stages" if found else "no evaluated stage"
    raise CatalogError(f"{name!r} names {what}", remedy=f"use one of: {near}")


def _begins(full: str, given: str) -> bool:
    """Whether a folder's name is the given one, with or without the fingerprint behind it."""
    return not given or full == given or full.rsplit("-", 1)[0] == given
