"""Questions whose answer is a number that stands earlier in the prompt: what Phonebook and the needle share.

A prompt is one text with one or more answers in it, each a space and digits. They are scored by teacher forcing
(scoring.py): `exact_match` is what greedy decoding would give; `digit_agreement` is the share of digits that are right
given the true digits before them, which shows a fuzzy memory; guessing gives 0.1.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from sidewinder.config.suites import Needle, Phonebook
from sidewinder.errors import EvaluationError
from sidewinder.evaluate.outcome import Score, ratio_standard_error
from sidewinder.evaluate.scoring import Item, SpanScore, score_items
from sidewinder.evaluate.subject import Subject

EXACT, DIGITS = "exact_match", "digit_agreement"


@dataclass(frozen=True)
class Question:
    """Where an answer stands in a prompt's text: characters [first, last). `about` goes into the sample."""

    first: int
    last: int
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A text with answers in it. `tokens` are `start` and the text's; their number is the prompt's length."""

    name: str
    text: str
    tokens: list[int]
    questions: list[Question]


@dataclass(frozen=True)
class Plan:
    """Lengths that are asked with the number of prompts of each, and why other lengths are left out."""

    prompts: dict[int, int]
    left_out: dict[str, str]

    @property
    def tokens(self) -> int:
        return sum(length * prompts for length, prompts in self.prompts.items())


def plan(subject: Subject, suite: Phonebook | Needle, *, prompts: int, shortest: int) -> Plan:
    """`prompts` of each length, or as many as the suite's tokens_per_length pays, but two at least."""
    longest = int(suite.beyond * subject.context_tokens)
    kept, left_out = {}, {}
    for length in suite.lengths_tokens:
        if length < shortest:
            left_out[str(length)] = f"the shortest prompt has {shortest} tokens"
        elif length > longest:
            left_out[str(length)] = f"beyond {suite.beyond:g} x the context of {subject.context_tokens} tokens"
        else:
            paid = (suite.tokens_per_length or length * prompts) // length
            kept[length] = min(prompts, max(2, paid))
    return Plan(kept, left_out)


def ask(subject: Subject, prompts: Sequence[Prompt], advance: Callable[[int], None]) -> list[list[dict[str, Any]]]:
    """A sample for every question of every prompt."""
    items = [Item(prompt.name, prompt.tokens, answer_spans(subject, prompt)) for prompt in prompts]
    found = score_items(subject.model, items, advance=advance, ranks=subject.ranks)
    return [
        [
            _sample(subject, prompt, question, item.tokens[start:end], score)
            for question, (start, end), score in zip(prompt.questions, item.spans, scores, strict=True)
        ]
        for prompt, item, scores in zip(prompts, items, found, strict=True)
    ]


def summarise(samples: Sequence[Sequence[dict[str, Any]]], **labels: Any) -> list[Score]:
    """Exact match and digit agreement over all questions; the standard errors take a prompt's questions as one."""
    scores = []
    count = sum(map(len, samples))
    for metric, part, whole in ((EXACT, "exact", None), (DIGITS, "digits_right", "digits")):
        rights = [math.fsum(sample[part] for sample in asked) for asked in samples]
        wholes = [math.fsum(sample[whole] if whole else 1 for sample in asked) for asked in samples]
        value = math.fsum(rights) / math.fsum(wholes)
        scores.append(Score(metric=metric, value=value, stderr=ratio_standard_error(rights, wholes), n=count, **labels))
    return scores


def answer_spans(subject: Subject, prompt: Prompt) -> list[tuple[int, int]]:
    """Spans of tokens that cover the answers. Raises EvaluationError where the tokens do not spell the text."""
    pieces = [subject.pieces[token] for token in prompt.tokens]
    if b"".join(pieces) != prompt.text.encode():
        raise EvaluationError(
            f"{prompt.name}: the tokenizer does not give back the prompt that begins with {prompt.text[:40]!r}",
            remedy="use a tokenizer with byte fallback and no normalisation",
        )
    ends = list(accumulate(map(len, pieces)))
    spans = []
    for question in prompt.questions:
        start_byte = len(prompt.text[: question.first].encode())
        end_byte = len(prompt.text[: question.last].encode())
        spans.append((bisect_right(ends, start_byte), bisect_left(ends, end_byte) + 1))
    return spans


def digits_right(subject: Subject, answer: Sequence[int], predicted: Sequence[int]) -> tuple[int, int]:
    """(digits that agree, digits of the answer), compared token by token, place by place within a token."""
    right = total = 0
    for true_token, token in zip(answer, predicted, strict=True):
        piece = subject.pieces[token]
        for place, digit in enumerate(subject.pieces[true_token]):
            if 48 <= digit <= 57:  # The ASCII digits.
                total += 1
                right += piece[place : place + 1] == bytes([digit])
    return right, total


def _sample(
    subject: Subject, prompt: Prompt, question: Question, answer: Sequence[int], score: SpanScore
) -> dict[str, Any]:
    right, total = digits_right(subject, answer, score.argmax)
    return question.about | {
        "name": prompt.name,
        "prompt_tokens": len(prompt.tokens),
        "prompt": prompt.text[: question.first],
        "answer": prompt.text[question.first : question.last],
        "prediction": b"".join(subject.pieces[token] for token in score.argmax).decode(errors="replace"),
        "exact": score.exact,
        "digits_right": right,
        "digits": total,
        "metrics": {EXACT: float(score.exact), DIGITS: right / total, "log_likelihood": score.log_likelihood},
    }
