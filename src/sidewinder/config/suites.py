"""Suites: named sets of evaluation tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sidewinder.config.base import Count, Strict

Lengths = Annotated[list[Count], Field(min_length=1)]


class BitsPerByte(Strict):
    """Cross-entropy on held-out documents of every source, in bits per byte of text."""

    kind: Literal["bits_per_byte"]
    tokens_per_source: Count = 50_000


class Phonebook(Strict):
    """Look-up in a phone book of a given length, with the question after (standard) or before it (reversed)."""

    kind: Literal["phonebook"]
    lengths_tokens: Lengths
    """Lengths of the whole prompt."""
    books: Count = 16
    """Books a length and variant."""
    queries: Count = 4
    """Entries asked a book (standard); a reversed book is asked one."""
    digits: Count = 4
    tokens_per_length: Count | None = None
    """Most tokens of prompts a length and variant: fewer books where they are long, at least two; null for no limit."""
    beyond: Annotated[float, Field(ge=1)] = 4.0
    """Longest length as a multiple of the checkpoint's context; longer ones are left out."""
    seed: int = 1


class Needle(Strict):
    """RULER's niah_single_1: one number hidden in repeated noise sentences."""

    kind: Literal["needle"]
    lengths_tokens: Lengths
    samples: Count = 32
    tokens_per_length: Count | None = None
    """Most tokens of prompts a length: fewer samples where they are long, at least two; null for no limit."""
    beyond: Annotated[float, Field(ge=1)] = 4.0
    seed: int = 1


class Harness(Strict):
    """Tasks run by lm-eval's own evaluator."""

    kind: Literal["harness"]
    tasks: Annotated[list[str], Field(min_length=1)]
    """`sidewinder_cloze` (made from held-out text) or any task name of lm-eval."""
    samples: Count | None = None
    """Samples a task; null for all."""
    shots: Annotated[int, Field(ge=0)] = 0
    seed: int = 1


Suite = Annotated[BitsPerByte | Phonebook | Needle | Harness, Field(discriminator="kind")]
