"""Phonebook: look up numbers in a book of names, as long as fits a given number of tokens.

*Standard*: the book, then questions, one after another with their right answers between, all scored in one pass (so
later questions see earlier ones as examples). *Reversed*: one question before the book, so that a small state knows
what to keep, and its answer after it. The text is that of the training blend's look-up documents
(corpus/phonebook_text.py), from seeds that training does not use.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate

from sidewinder.config.suites import Phonebook
from sidewinder.corpus.phonebook_text import (
    SHORT_NAMES,
    Entry,
    entries,
    names,
    reversed_document,
    standard_document,
)
from sidewinder.evaluate.outcome import Outcome
from sidewinder.evaluate.recall import Prompt, Question, ask, plan, summarise
from sidewinder.evaluate.subject import Subject
from sidewinder.progress import Progress

TASK = "phonebook"
STANDARD, REVERSED = "standard", "reversed"
VARIANTS = (STANDARD, REVERSED)


def run(subject: Subject, suite: Phonebook) -> Outcome:
    """Exact match and digit agreement for each length and variant; lengths beyond the suite's limit are left out."""
    asked = plan(subject, suite, prompts=suite.books, shortest=_shortest(subject, suite))
    outcome = Outcome(facts={"lengths_left_out": asked.left_out})
    total = asked.tokens * len(VARIANTS)
    silent = subject.ranks.rank > 0
    with Progress(f"{subject.title} phonebook", total=total, unit="token", silent=silent) as progress:
        for length, count in asked.prompts.items():
            for variant in VARIANTS:
                prompts = [make_prompt(subject, suite, length, variant, book) for book in range(count)]
                samples = ask(subject, prompts, progress.update)
                outcome.scores += summarise(samples, task=TASK, context_tokens=length, variant=variant)
                labels = {"context_tokens": length, "variant": variant}
                outcome.samples += [labels | sample for answers in samples for sample in answers]
    return outcome


def make_prompt(subject: Subject, suite: Phonebook, length: int, variant: str, place: int) -> Prompt:
    """The longest book, with its questions and answers, that fits in `length` tokens; at least one entry.

    Both variants of a length and place draw the same names and numbers.
    """
    seed = f"phonebook {suite.seed} {length} {place}"
    queries = suite.queries if variant == STANDARD else 1
    name = f"{variant} book {place} of {length} tokens"
    book = _draw(subject, random.Random(seed), length, suite.digits)
    for size in range(_largest(subject, seed, book, queries, length), 1, -1):
        prompt = _prompt(subject, name, variant, book[:size], _asked(seed, size, queries))
        if len(prompt.tokens) <= length:
            return prompt
    return _prompt(subject, name, variant, book[:1], [0])


def _shortest(subject: Subject, suite: Phonebook) -> int:
    """A length that a book of one entry and its question always fit, whatever the name."""
    entry = Entry(max(names()[0], key=lambda name: len(subject.encode(name))), "1" * suite.digits)
    return 1 + len(subject.encode(reversed_document([entry], entry)))


def _draw(subject: Subject, rng: random.Random, length: int, digits: int) -> list[Entry]:
    """More entries than fit. Names are short where a book of SHORT_NAMES entries would be enough."""
    book = entries(rng, SHORT_NAMES, digits)
    if sum(_line_tokens(subject, book)) > length:
        return book
    # A line has at least one token for the name, one for the colon, one for the newline and one for each digit.
    return entries(rng, max(SHORT_NAMES + 1, length // (digits + 3)), digits)


def _largest(subject: Subject, seed: str, book: list[Entry], queries: int, length: int) -> int:
    """Entries that fit if lines are tokenized one by one, which holds where no piece crosses a line."""
    lines = _line_tokens(subject, book)
    for size, book_tokens in reversed(list(enumerate(accumulate(lines), start=1))):
        if book_tokens <= length and book_tokens + sum(lines[at] for at in _asked(seed, size, queries)) <= length:
            return size
    return 0


def _line_tokens(subject: Subject, book: list[Entry]) -> list[int]:
    return [len(tokens) for tokens in subject.encode_all([entry.line for entry in book])]


def _asked(seed: str, size: int, queries: int) -> list[int]:
    """Places of the entries that are asked, in the order of the questions."""
    return random.Random(f"{seed} asked").sample(range(size), min(queries, size))


def _prompt(subject: Subject, name: str, variant: str, book: list[Entry], asked: Sequence[int]) -> Prompt:
    if variant == REVERSED:
        text = reversed_document(book, book[asked[0]])
    else:
        text = standard_document(book, [book[at] for at in asked])
    questions = []
    first = len(text) - sum(len(book[at].line) for at in asked)
    for order, at in enumerate(asked):
        entry = book[at]
        start, end = first + len(entry.prompt), first + len(entry.line) - 1
        position = at / (len(book) - 1) if len(book) > 1 else 0.0
        about = {
            "task": TASK,
            "entries": len(book),
            "entry": at,
            "position": position,
            "order": order,
            "asked": entry.name,
        }
        questions.append(Question(start, end, about))
        first += len(entry.line)
    return Prompt(name, text, [subject.start, *subject.encode(text)], questions)
