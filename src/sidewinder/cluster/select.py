"""Which stages a user means by the name of a run."""

from __future__ import annotations

from difflib import get_close_matches

from sidewinder.errors import ConfigError
from sidewinder.graph import Graph, Stage


def stages_named(graph: Graph, text: str) -> list[Stage]:
    """Stages of a run (`hybrid`, `hybrid-s1`, `hybrid-s1-3f9a2c1b`), or one of them (`hybrid-s1/extend-1024`).

    Raises ConfigError, with the nearest name, where the study has no such run.
    """
    found = [stage for stage in graph.stages if text in _names(stage)]
    if found:
        return found
    names = list(
        dict.fromkeys(f"{stage.model_name}-s{stage.seed}{end}" for stage in graph.stages for end in _ends(stage))
    )
    near = get_close_matches(text, names, n=1, cutoff=0.0)[0]
    raise ConfigError(f"the study has no run {text!r}; nearest: {near}", remedy=f"use one of: {', '.join(names)}")


def _ends(stage: Stage) -> list[str]:
    return ["", f"/{stage.kind}-{stage.training.context_tokens}"]


def _names(stage: Stage) -> set[str]:
    runs = [stage.model_name, f"{stage.model_name}-s{stage.seed}", stage.run]
    return {run + end for run in runs for end in [*_ends(stage), f"/{stage.name}", f"/{stage.kind}"]}
