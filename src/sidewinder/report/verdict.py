"""What the numbers say, in sentences computed from them: the head of the report.

No difference is called one without its error: with one seed the standard error over samples, with several the spread
over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sidewinder.report.data import Checkpoint, Score, StudyData
from sidewinder.report.figures.bytes import BLEND, METRIC
from sidewinder.report.figures.common import told_apart
from sidewinder.report.figures.lengths import words
from sidewinder.report.text import count, decimal, names, percent, power, short

Finding = tuple[str, str]  # what it is about, and the sentence


def verdict(data: StudyData) -> list[Finding]:
    """Findings, most important first; only what the study measured."""
    findings = [
        *(_bytes(data) or _loss(data)),
        *_look_ups(data),
        *_extensions(data),
        _speed(data),
        _exports(data),
        _seeds(data),
    ]
    return [finding for finding in findings if finding]


def _pretrained(data: StudyData) -> list[Checkpoint]:
    return [checkpoint for checkpoint in data.checkpoints if not checkpoint.extended]


def _bytes(data: StudyData) -> list[Finding]:
    """Of each suite: the order of the models on the whole blend."""
    findings = []
    pretrained = set(_pretrained(data))
    for name, whole in _blends(data, "Held-out text"):
        ranked = sorted((score for score in whole if score.checkpoint in pretrained), key=lambda score: score.value)
        if not ranked:
            continue
        tokens = max(data.mean(score.checkpoint, "tokens") or 0 for score in ranked)
        listed = names([f"{score.checkpoint.model} {decimal(score.value)}" for score in ranked])
        note = f" {_separation(ranked[0], ranked[1])}" if len(ranked) > 1 else ""
        findings.append((name, f"Bits per byte after {short(tokens)} tokens (lower is better): {listed}.{note}"))
    return findings


def _blends(data: StudyData, name: str) -> list[tuple[str, list[Score]]]:
    """Bits per byte of the blend, of each suite that has them, under a name that tells which where several do."""
    scores = [score for score in data.scores if score.metric == METRIC and score.task == BLEND]
    titles = told_apart({score.series: name for score in scores})
    return [(title, [score for score in scores if score.series == series]) for series, title in titles.items()]


def _separation(best: Score, second: Score) -> str:
    """Whether the first two differ by more than twice their combined error."""
    gap = abs(best.value - second.value)
    if best.error is None or second.error is None:
        return "The standard error is not known."
    error = math.hypot(best.error, second.error)
    what = "spread over seeds" if best.sd is not None else "standard error over documents"
    verb = "exceeds" if gap > 2 * error else "does not exceed"
    return f"The first two differ by {gap:.3f}, which {verb} twice the combined {what} ({error:.3f})."


def _loss(data: StudyData) -> list[Finding]:
    found = [(data.mean(checkpoint, "final_loss"), checkpoint.model) for checkpoint in _pretrained(data)]
    ranked = sorted((loss, model) for loss, model in found if loss is not None)
    if not ranked:
        return []
    listed = names([f"{model} {loss:.3f}" for loss, model in ranked])
    return [("Training loss", f"At the last step, in nats per token: {listed}.")]


def _look_ups(data: StudyData) -> list[Finding]:
    """For each look-up task: the score at the trained length, and how far at least half of the answers are right."""
    findings = []
    pretrained = _pretrained(data)
    scores = [score for score in data.scores if score.metric == "exact_match" and score.context_tokens]
    titles = told_apart({score.series: _task(score) for score in scores})
    for series, name in titles.items():
        own = [score for score in scores if score.series == series]
        at = [(_at_context(own, checkpoint), checkpoint) for checkpoint in pretrained]
        ranked = sorted(((score, checkpoint) for score, checkpoint in at if score), key=lambda pair: -pair[0].value)
        if not ranked:
            continue
        listed = names([f"{checkpoint.model} {percent(score.value)}" for score, checkpoint in ranked])
        length = ranked[0][0].context_tokens
        sentence = f"Exact match at {length:,} tokens: {listed}."
        reach = _reach(own, [checkpoint for _, checkpoint in ranked])
        findings.append((f"{name[0].upper()}{name[1:]}", f"{sentence} {reach}"))
    return findings


def _task(score: Score) -> str:
    return ", ".join(part for part in (words(score.task).split(" (")[0], score.variant) if part)


def _at_context(scores: Sequence[Score], checkpoint: Checkpoint) -> Score | None:
    """The score at the longest length that the checkpoint was trained for."""
    own = [
        score
        for score in scores
        if score.checkpoint == checkpoint and (score.context_tokens or 0) <= checkpoint.context_tokens
    ]
    return max(own, key=lambda score: score.context_tokens or 0, default=None)


def _reach(scores: Sequence[Score], checkpoints: Sequence[Checkpoint]) -> str:
    """Longest length up to which every measured length has at least half of the answers right."""
    reached = {}
    for checkpoint in checkpoints:
        longest = 0
        own = [score for score in scores if score.checkpoint == checkpoint]
        for score in sorted(own, key=lambda score: score.context_tokens or 0):
            if score.value < 0.5:
                break
            longest = score.context_tokens or 0
        reached[checkpoint.model] = longest
    if not any(reached.values()):
        return "No model has half of the answers right at any length."
    listed = names([f"{model} {count(length)}" for model, length in reached.items() if length])
    never = [model for model, length in reached.items() if not length]
    return f"At least half right up to: {listed}{f'; {names(never)} at no length' if never else ''}."


def _extensions(data: StudyData) -> list[Finding]:
    """For each extended model: what its longest extension changed."""
    findings = []
    for pretrained in _pretrained(data):
        extended = [other for other in data.checkpoints if other.extended and other.model == pretrained.model]
        if not extended:
            continue
        longest = max(extended, key=lambda checkpoint: checkpoint.context_tokens)
        parts = [*_changed_bytes(data, pretrained, longest), *_changed_recall(data, pretrained, longest)]
        if parts:
            name = f"{pretrained.model} to {longest.context_tokens:,}"
            sentence = "; ".join(parts)
            findings.append((f"{name[0].upper()}{name[1:]}", f"{sentence[0].upper()}{sentence[1:]}."))
    return findings


def _changed_bytes(data: StudyData, before: Checkpoint, after: Checkpoint) -> list[str]:
    parts = []
    for name, whole in _blends(data, "bits per byte"):
        values = {score.checkpoint: score.value for score in whole}
        if before in values and after in values:
            parts.append(f"{decimal(values[before])} → {decimal(values[after])} {name}")
    return parts


def _changed_recall(data: StudyData, before: Checkpoint, after: Checkpoint) -> list[str]:
    """Exact match at the longest length that both were asked, and at the new context."""
    parts = []
    scores = [score for score in data.scores if score.metric == "exact_match" and score.variant in ("standard", None)]
    titles = told_apart({score.series: words(score.task).split(" (")[0] for score in scores if score.context_tokens})
    for series, name in titles.items():
        old, new = (
            {score.context_tokens: score for score in scores if score.series == series and score.checkpoint == side}
            for side in (before, after)
        )
        shared = max((length or 0 for length in old.keys() & new.keys()), default=0)
        if not shared:
            continue
        change = f"{percent(old[shared].value)} → {percent(new[shared].value)} at {shared:,} tokens"
        own = _at_context(list(new.values()), after)
        at_own = f", {percent(own.value)} at {own.context_tokens:,}" if own and own.context_tokens != shared else ""
        parts.append(f"{name} exact match {change}{at_own}")
    return parts


def _speed(data: StudyData) -> Finding | None:
    rates = [(data.mean(checkpoint, "tokens_per_s"), checkpoint.model) for checkpoint in _pretrained(data)]
    ranked = sorted(((rate, model) for rate, model in rates if rate), reverse=True)
    if not ranked:
        return None
    listed = names([f"{model} {short(rate)}" for rate, model in ranked])
    return "Speed", f"Tokens a second in pretraining: {listed}."


def _exports(data: StudyData) -> Finding | None:
    found = [row["max_logit_difference"] for row in data.exports if row["max_logit_difference"] is not None]
    if not found:
        return None
    were = "checkpoint was" if len(found) == 1 else "checkpoints were"
    return (
        "Exports",
        f"{len(found)} {were} loaded back through transformers; the largest logit difference is {power(max(found))}.",
    )


def _seeds(data: StudyData) -> Finding | None:
    if not data.checkpoints:
        return None
    many = len(data.seeds)
    if many > 1:
        return "Seeds", f"All scores are means over {many} seeds; ± is the standard deviation over seeds."
    return "Seeds", "One: nothing here measures how much another seed would change the order."
