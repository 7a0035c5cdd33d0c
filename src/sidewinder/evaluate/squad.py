"""Scores of SQuAD 2 (Rajpurkar et al., arXiv 1806.03822) and of SCROLLS' question tasks (Shaham et al., 2201.03533).

lm-eval takes both from scripts that it downloads when they are needed, which compute nodes cannot. The definitions are
short: an answer is normalised (case, punctuation, articles, spaces), and F1 is that of its bag of words. The two differ
where neither answer nor reference has a word left: SQuAD 2 calls that right, SCROLLS wrong.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

VERSION = "2"
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def word_f1(prediction: str, reference: str) -> float:
    """F1 of the words in common; 0 where there are none."""
    found, wanted = normalise(prediction).split(), normalise(reference).split()
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def exact(prediction: str, reference: str) -> float:
    return float(normalise(prediction) == normalise(reference))


def exact_or_f1(prediction: str, reference: str) -> float:
    """SQuAD 2's F1: no word is right where none is wanted."""
    return exact(prediction, reference) or word_f1(prediction, reference)


def squad_v2(predictions: Sequence[dict[str, Any]], references: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Percentages: exact and f1 over all questions, over those with and those without an answer, and the best that any
    threshold on the probability of no answer would give.
    """
    # A question has an answer if any is given, even one of which nothing is left; only what is left is compared.
    has_answer = [bool(entry["answers"]["text"]) for entry in references]
    golds = [[text for text in entry["answers"]["text"] if normalise(text)] or [""] for entry in references]
    texts = [entry["prediction_text"] for entry in predictions]
    # In single precision, as the official script's: what is then equal stays in the order of the questions.
    doubts = np.array([entry["no_answer_probability"] for entry in predictions], dtype=np.float32)
    found: dict[str, float] = {}
    best: dict[str, float] = {}
    for name, score in (("exact", exact), ("f1", exact_or_f1)):
        values = [max(score(text, gold) for gold in own) for text, own in zip(texts, golds, strict=True)]
        found[name] = _percent(values)
        for kind, answered in (("HasAns", True), ("NoAns", False)):
            part = [value for value, has in zip(values, has_answer, strict=True) if has == answered]
            if part:
                found[f"{kind}_{name}"] = _percent(part)
        best[f"best_{name}"] = _best(values, texts, has_answer, np.argsort(doubts, kind="stable").tolist())
    return found | best


def _best(values: Sequence[float], texts: Sequence[str], has_answer: Sequence[bool], order: Sequence[int]) -> float:
    """Score where the first answers of `order` are given and for all others none, at the best number of answers."""
    score = best = float(len(values) - sum(has_answer))
    for place in order:
        if has_answer[place]:
            score += values[place]
        elif texts[place]:
            score -= 1
        best = max(best, score)
    return 100 * best / len(values)


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


class ScrollsMetric:
    """In place of SCROLLS' metric script: mean F1 with the best of the references."""

    def compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        return {"f1": _percent([max(word_f1(prediction, gold) for gold in own) for prediction, own in pairs])}


def own_score(metric: str, value: Any) -> float | None:
    """One sample's part of a score that lm-eval computes from (prediction, reference) pairs; None where it has none."""
    prediction, reference = value
    if isinstance(prediction, dict):
        return squad_v2([prediction], [reference]).get(metric) if not metric.startswith("best") else None
    if isinstance(prediction, str) and metric == "f1":
        return ScrollsMetric().compute([prediction], [reference])["f1"]
    return None
