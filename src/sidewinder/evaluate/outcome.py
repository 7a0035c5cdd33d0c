"""What a suite hands back: scores with standard errors, samples, and facts for the record."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Score:
    """One number of a suite. `n` counts the samples behind it; `stderr` is None where it is not known."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    context_tokens: int | None = None
    """Length of the prompts, where the task has lengths."""
    variant: str | None = None


@dataclass
class Outcome:
    """Everything that one suite found on one checkpoint."""

    scores: list[Score] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    sample_files: list[Path] = field(default_factory=list)
    """Files of further samples (samples.py), which are too many to be held."""
    facts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of tasks and of the libraries that define them."""

    def scores_text(self, suite: str, kind: str) -> str:
        """Content of scores.json."""
        scores = [asdict(score) for score in self.scores]
        content = {"suite": suite, "kind": kind, "scores": scores, "versions": self.versions}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    centre = mean(values)
    variance = math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def ratio_standard_error(parts: Sequence[float], wholes: Sequence[float]) -> float | None:
    """Standard error of sum(parts) / sum(wholes) over independent pairs (linearised); None for fewer than two."""
    if len(parts) < 2:
        return None
    ratio, count = math.fsum(parts) / math.fsum(wholes), len(parts)
    squares = math.fsum((part - ratio * whole) ** 2 for part, whole in zip(parts, wholes, strict=True))
    return math.sqrt(squares * count / (count - 1)) / math.fsum(wholes)
