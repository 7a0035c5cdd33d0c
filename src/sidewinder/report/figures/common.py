"""What figures share: the table behind a figure, line styles of checkpoints, smoothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from sidewinder.report.data import Checkpoint, StudyData


@dataclass
class Figure:
    """One picture with its words. `narrow` is drawn anew for phones where scaling would make it unreadable."""

    title: str
    svg: Markup
    caption: str = ""
    narrow: Markup | None = None
    scroll: bool = False


@dataclass
class FigureTable:
    """The numbers behind a figure. `words` and, folded, `long` are columns of text; others are numbers."""

    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    words: frozenset[str] = frozenset()
    long: frozenset[str] = frozenset()


def dash(data: StudyData, checkpoint: Checkpoint) -> int:
    """Line style: solid for pretraining, then one for each longer context of the study."""
    if not checkpoint.extended:
        return 0
    contexts = sorted({other.context_tokens for other in data.checkpoints if other.extended})
    return 1 + (contexts.index(checkpoint.context_tokens) if checkpoint.context_tokens in contexts else len(contexts))


def switches(checkpoint: Checkpoint) -> dict[str, str]:
    """Attributes by which the legend shows and hides what belongs to a checkpoint."""
    return {"data-model": checkpoint.model, "data-stage": checkpoint.stage}


def told_apart(names: Mapping[tuple[Any, ...], str]) -> dict[tuple[Any, ...], str]:
    """Names of series, whose key begins with the suite, which is added to each name that several have."""
    counts = Counter(names.values())
    return {key: f"{name} ({key[0]})" if counts[name] > 1 else name for key, name in names.items()}


def smooth(values: Sequence[float], width: float) -> list[float]:
    """Mean with Gaussian weights of standard deviation `width` steps, cut at three of them and at the ends."""
    reach = max(1, math.ceil(3 * width))
    weights = [math.exp(-0.5 * (offset / width) ** 2) for offset in range(reach + 1)]
    smoothed = []
    for at in range(len(values)):
        near = range(max(0, at - reach), min(len(values), at + reach + 1))
        total = math.fsum(weights[abs(other - at)] for other in near)
        smoothed.append(math.fsum(weights[abs(other - at)] * values[other] for other in near) / total)
    return smoothed


def thin(count: int, most: int) -> list[int]:
    """At most `most` places of `count`, evenly spaced, both ends among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})
