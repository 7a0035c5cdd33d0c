"""lm-eval's results in our own form: scores with standard errors, versions, and samples as rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.outcome import Score, mean, standard_error
from sidewinder.evaluate.presets import RULER, Unit
from sidewinder.evaluate.squad import own_score
from sidewinder.record import digest

ABSENT = -1.0
"""What RULER's tasks give for a length that a sample does not have."""
TEMPLATE_KEYS = (
    "description",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "gen_prefix",
    "target_delimiter",
    "fewshot_delimiter",
    "fewshot_config",
    "generation_kwargs",
    "output_type",
)


def scores_of(unit: Unit, results: dict[str, Any]) -> list[Score]:
    """lm-eval's results as ours: `acc,none` with `acc_stderr,none` becomes one score."""
    scores: list[Score] = []
    for task, values in results["results"].items():
        count = int(results["n-samples"].get(task, {}).get("effective", 0) or values.get("sample_len") or 0)
        for key, value in (values | _missing_means(unit, task, results)).items():
            metric, _, kept = key.partition(",")
            if not isinstance(value, int | float) or not kept or metric.endswith("_stderr"):
                continue
            error = values.get(f"{metric}_stderr,{kept}")
            if not isinstance(error, int | float):
                error = _error(unit, results["samples"].get(task, ()), metric, kept, float(value))
            score = _score(unit, task, metric, kept, float(value), error, count)
            scores += [score] if score else []
    return scores


def _error(unit: Unit, samples: Sequence[dict[str, Any]], metric: str, kept: str, value: float) -> float | None:
    """Standard error of a score that is the mean of its samples' parts, where lm-eval gives none."""
    found = [
        _number(unit, metric, sample[metric]) for sample in samples if sample["filter"] == kept and metric in sample
    ]
    parts = [part for part in found if part is not None]
    if len(parts) < 2 or len(parts) < len(found) or abs(mean(parts) - value) > 1e-6 * max(1.0, abs(value)):
        return None
    return standard_error(parts)


def _missing_means(unit: Unit, task: str, results: dict[str, Any]) -> dict[str, float]:
    """Means over questions of metrics that all tasks of the unit's group have, but lm-eval does not average."""
    if task != unit.task or task not in results.get("group_subtasks", {}):
        return {}
    leaves = [results["results"][name] for name in results["n-samples"]]
    counts = [results["n-samples"][name]["effective"] for name in results["n-samples"]]
    keys = [
        key
        for key, value in leaves[0].items()
        if "," in key and "_stderr" not in key and key not in results["results"][task]
    ]
    return {
        key: sum(leaf[key] * count for leaf, count in zip(leaves, counts, strict=True)) / sum(counts)
        for key in keys
        if all(isinstance(leaf.get(key), int | float) for leaf in leaves)
    }


def versions_of(results: dict[str, Any]) -> dict[str, str]:
    """Of every task, and of its template; and the group of each that is a part of one."""
    versions = {task: str(results["versions"].get(task)) for task in results["results"]}
    groups = {f"{part} group": group for group, parts in results.get("group_subtasks", {}).items() for part in parts}
    templates = {f"{task} template": template_version(config) for task, config in results["configs"].items()}
    return versions | groups | templates


def template_version(config: dict[str, Any]) -> str:
    """Twelve digits that change when anything changes which shapes a task's prompts."""
    return digest({key: str(config.get(key)) for key in TEMPLATE_KEYS})[:12]


def _score(unit: Unit, task: str, metric: str, kept: str, value: float, error: Any, count: int) -> Score | None:
    """A score, or None for a length that the unit does not have. RULER's metrics are lengths."""
    length = unit.length_tokens
    if metric.isdigit():
        if int(metric) != length or value == ABSENT:
            return None
        metric = "score"
    if not math.isfinite(value):
        raise EvaluationError(
            f"lm-eval task {task!r}: {metric} is {value}", remedy="leave the task out, or look at its samples"
        )
    stderr = float(error) if isinstance(error, int | float) and math.isfinite(error) else None
    return Score(task, metric, value, stderr, count, context_tokens=length, variant=_variant(unit, kept))


def _variant(unit: Unit, kept: str) -> str | None:
    """The unit's own, and the filter of lm-eval's that an answer went through."""
    return ", ".join(part for part in (unit.variant, None if kept == "none" else kept) if part) or None


def sample_of(unit: Unit, task: str, sample: dict[str, Any]) -> dict[str, Any]:
    """A sample's question, answer, what the model gave, and its metrics."""
    arguments = [list(pair) for pair in sample["arguments"]]
    answers = [_plain(answer) for answer in sample["filtered_resps"]]
    metrics = {metric: _number(unit, metric, sample[metric]) for metric in sample["metrics"]}
    doc = sample["doc"] if isinstance(sample["doc"], dict) else {}
    return {
        "task": task,
        "variant": _variant(unit, sample["filter"]),
        "context_tokens": unit.length_tokens,
        "sample": int(sample["doc_id"]),
        "prompt": str(arguments[0][0]),
        "answer": str(sample["target"]),
        "prediction": json.dumps(answers, ensure_ascii=False) if len(answers) > 1 else str(answers[0]),
        "metrics": {("score" if key.isdigit() else key): value for key, value in metrics.items() if value is not None},
        "details": {
            "continuations": [str(pair[1]) for pair in arguments if len(pair) > 1 and isinstance(pair[1], str)],
            "prompts": [str(pair[0]) for pair in arguments] if len({str(pair[0]) for pair in arguments}) > 1 else [],
            **{
                key: doc[key]
                for key in ("position", "entry", "entries", "book", "order", "prompt_tokens")
                if key in doc
            },
        },
    }


def skipped_of(unit: Unit, results: dict[str, Any]) -> int:
    """Questions that were passed over when the samples were made (ruler.py); other tasks' columns mean other things."""
    return sum(sample["doc"]["skipped"] for sample in results["samples"][unit.task]) if unit.task in RULER else 0


def _number(unit: Unit, metric: str, value: Any) -> float | None:
    """A sample's part of a metric, where it has one of its own."""
    if metric.isdigit() and int(metric) != unit.length_tokens:
        return None
    if isinstance(value, tuple) and len(value) == 2:
        value = own_score(metric, value)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """JSON-able values; numbers that JSON does not have become texts."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
