"""Scores of SQuAD 2 and SCROLLS by another way than ours, for lm-eval's side of a comparison.

F1 and normalisation are those of LongBench's metrics, which lm-eval brings along; the best threshold is found by trying
each. The official scripts are downloaded when they are needed, which tests do not do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from lm_eval.tasks.longbench.metrics import normalize_answer, qa_f1_score

from sidewinder.evaluate.loading import _module


def exact(text: str, gold: str) -> float:
    return float(normalize_answer(text) == normalize_answer(gold))


def f1(text: str, gold: str) -> float:
    """LongBench has 0 where neither has a word, SQuAD 2 has 1."""
    return 1.0 if normalize_answer(text) == normalize_answer(gold) == "" else float(qa_f1_score(text, gold))


def squad_v2(predictions: Sequence[dict[str, Any]], references: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Percentages, as the official script's, question by question."""
    scores: dict[str, float] = {}
    texts = [entry["prediction_text"] for entry in predictions]
    answered = [len(entry["answers"]["text"]) > 0 for entry in references]
    order = sorted(range(len(texts)), key=lambda place: predictions[place]["no_answer_probability"])
    for name, pair in (("exact", exact), ("f1", f1)):
        own = []
        for text, entry in zip(texts, references, strict=True):
            golds = [gold for gold in entry["answers"]["text"] if normalize_answer(gold) != ""] or [""]
            own.append(max(pair(text, gold) for gold in golds))
        scores[name] = 100 * sum(own) / len(own)
        for kind, wanted in (("HasAns", True), ("NoAns", False)):
            part = [value for value, has in zip(own, answered, strict=True) if has is wanted]
            scores |= {f"{kind}_{name}": 100 * sum(part) / len(part)} if part else {}
        scores[f"best_{name}"] = 100 * best(own, texts, answered, order) / len(own)
    return scores


def best(own: list[float], texts: list[str], answered: list[bool], order: list[int]) -> float:
    """Points at the best number of answers. Where none is wanted any text is wrong, even if nothing is left of it."""
    given = [value if has else float(not text) for value, text, has in zip(own, texts, answered, strict=True)]
    return max(
        sum(given[place] for place in order[:count]) + sum(not answered[place] for place in order[count:])
        for count in range(len(order) + 1)
    )


class Scrolls:
    def compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        best = [
            max(qa_f1_score(text, gold) for gold in golds) for text, golds in zip(predictions, references, strict=True)
        ]
        return {"f1": 100 * sum(best) / len(best)}


@contextmanager
def scorers(task: str) -> Iterator[None]:
    """In place of those that `loading.substituted` put into the modules of lm-eval's task."""
    with ExitStack() as stack:
        if task == "squadv2":
            stack.enter_context(patch.object(_module("squadv2/task.py"), "_squad_metric", squad_v2))
        if task.startswith("scrolls"):
            module, words = _module("scrolls/task.py"), SimpleNamespace(normalize_answer=normalize_answer)
            stack.enter_context(patch.object(module, "load", lambda path, config_name=None: Scrolls()))
            stack.enter_context(patch.object(module, "squad_metrics", words))
        yield
