"""The text of a phone book and of the questions about it: one format for training documents and for evaluation.

    Maria: 4071                 Find Paul.
    Paul: 9302                  Maria: 4071
                                Paul: 9302
    Paul: 9302
    Maria: 4071                 Paul: 9302

Left a *standard* document: the book, a blank line, entries asked again. Right a *reversed* one: the question comes
first, so that a model with a small state knows what to keep. A question is answered by continuing `Paul:`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

SHORT_NAMES = 600
"""Books up to this size use first names alone, which cost few tokens; there are not enough for longer ones."""


class Entry(NamedTuple):
    """One line of a phone book."""

    name: str
    number: str

    @property
    def line(self) -> str:
        return f"{self.prompt}{self.answer}"

    @property
    def prompt(self) -> str:
        """What a model is given to continue."""
        return f"{self.name}:"

    @property
    def answer(self) -> str:
        """What it should continue with: a space, the number, a newline."""
        return f" {self.number}\n"


@cache
def names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """First names and last names (en_US, from Faker), each sorted."""
    from faker.providers.person.en_US import Provider

    return tuple(sorted(set(Provider.first_names))), tuple(sorted(set(Provider.last_names)))


def entries(rng: random.Random, count: int, digits: int) -> list[Entry]:
    """Draws `count` entries with distinct names, in random order; numbers have exactly `digits` digits.

    Raises ValueError where there are not `count` distinct names (690,000 with Faker's lists).
    """
    first, last = names()
    if count <= SHORT_NAMES:
        chosen = rng.sample(first, count)
    elif count <= len(first) * len(last):
        pairs = rng.sample(range(len(first) * len(last)), count)
        chosen = [f"{first[pair // len(last)]} {last[pair % len(last)]}" for pair in pairs]
    else:
        raise ValueError(f"a book of {count:,} entries needs more names than the {len(first) * len(last):,} there are")
    return [Entry(name, f"{rng.randrange(10**digits):0{digits}d}") for name in chosen]


def book_lines(book: Iterable[Entry]) -> str:
    """The lines of a book, each ended by a newline."""
    return "".join(entry.line for entry in book)


def question(asked: Entry) -> str:
    """The line that opens a reversed document."""
    return f"Find {asked.name}.\n"


def standard_document(book: Iterable[Entry], asked: Iterable[Entry]) -> str:
    """The book, a blank line, then the asked entries in the order given, as in the book."""
    return f"{book_lines(book)}\n{book_lines(asked)}"


def reversed_document(book: Iterable[Entry], asked: Entry) -> str:
    """The question, the book, a blank line, then the asked entry."""
    return f"{question(asked)}{book_lines(book)}\n{asked.line}"
