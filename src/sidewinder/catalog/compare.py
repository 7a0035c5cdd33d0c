"""Two runs on the same samples: paired differences with bootstrap intervals.

Both models answered the same questions, so what is resampled is the difference of each sample, not each model's score:
the interval is far narrower than two standard errors beside each other suggest. Questions about the same book are
resampled together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import duckdb
import numpy as np

from sidewinder.catalog.errors import CatalogError
from sidewinder.catalog.table import Table

ROUNDS = 10_000
LEVEL = 0.95
SEED = 1
BLOCK_VALUES = 2**24
"""Resampled values held at once (128 MiB)."""
PAIRS = """
SELECT
    a.suite, a.task, a.variant, a.context_tokens, m.key AS metric,
    coalesce(a.details->>'name', a.details->>'book', CAST(a.sample AS VARCHAR)) AS prompt,
    m.value AS first, b.metrics[m.key] AS second
FROM samples AS a, unnest(map_entries(a.metrics)) AS e(m), samples AS b
WHERE a.stage = $first AND b.stage = $second AND a.current AND b.current
    AND b.suite = a.suite AND b.task = a.task AND b.variant IS NOT DISTINCT FROM a.variant
    AND b.context_tokens IS NOT DISTINCT FROM a.context_tokens AND b.sample = a.sample
    AND md5(coalesce(a.prompt, '')) = md5(coalesce(b.prompt, ''))
    AND ($suite IS NULL OR a.suite = $suite) AND b.metrics[m.key] IS NOT NULL
ORDER BY ALL
"""
KEYS = ["suite", "task", "variant", "length", "metric"]
NUMBERS = ["samples", "first", "second", "difference", "interval_95", "p"]
STAGES = """
SELECT DISTINCT f.stage FROM sample_files AS f JOIN stages AS s USING (stage) WHERE f.current ORDER BY f.stage
"""


@dataclass(frozen=True)
class Difference:
    """Mean of second − first with its interval; `p` is twice the share of resamples on the other side of zero."""

    mean: float
    low: float
    high: float
    p: float


def compare(connection: duckdb.DuckDBPyConnection, first: str, second: str, suite: str | None = None) -> Table:
    """One row a task and metric that both were scored on, on samples with equal prompts.

    A run is named as people do (`hybrid-s1`: the last stage of it), or with its stage (`hybrid-s1/extend-1024`). Raises
    CatalogError for an unknown one, and where the two share no sample.
    """
    stages = [stage_of(connection, name) for name in (first, second)]
    rows = connection.execute(PAIRS, {"first": stages[0], "second": stages[1], "suite": suite}).fetchall()
    groups: dict[tuple[Any, ...], list[tuple[str, float, float]]] = defaultdict(list)
    for *key, prompt, one, other in rows:
        groups[tuple(key)].append((prompt, one, other))
    if not groups:
        raise CatalogError(
            f"{stages[0]} and {stages[1]} have no sample in common" + (f" in suite {suite}" if suite else ""),
            remedy="evaluate both with the same suite, and name it with --suite where they have several",
        )
    answer = Table(KEYS + NUMBERS, [], f"{stages[1]} minus {stages[0]}, {ROUNDS:,} paired resamples")
    for group, pairs in groups.items():
        one, other = np.array([pair[1:] for pair in pairs]).T
        found = bootstrap(other - one, [pair[0] for pair in pairs])
        numbers = [len(pairs), float(one.mean()), float(other.mean()), found.mean]
        interval = f"{found.low:+.4f} to {found.high:+.4f}"
        answer.rows.append((*group, *numbers, interval, found.p))
    return answer


def bootstrap(differences: np.ndarray, owners: Sequence[Any], rounds: int = ROUNDS) -> Difference:
    """Percentile interval of the mean; differences with equal `owners` are drawn together. The same every time."""
    _, inverse = np.unique(np.array(owners), return_inverse=True)
    sums, counts = np.bincount(inverse, differences), np.bincount(inverse)
    rng = np.random.default_rng(SEED)
    means = np.empty(rounds)
    block = max(1, BLOCK_VALUES // len(sums))
    for start in range(0, rounds, block):
        drawn = rng.integers(0, len(sums), (len(means[start : start + block]), len(sums)))
        means[start : start + block] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = min(float((means <= 0).mean()), float((means >= 0).mean()))
    return Difference(float(differences.mean()), float(low), float(high), min(1.0, 2 * tail))


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
