"""Suites: named sets of evaluation tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from sidewinder.config.base import BLOCK, WORD, Count, Strict

Lengths = Annotated[list[Count], Field(min_length=1)]


class Shared(Strict):
    """What every suite has."""

    processes: Count = 1
    """Processes of one machine that share the suite, one a GPU; each holds the model. No result depends on it."""

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that shape the result."""
        return self.model_dump(exclude={"processes"})


class BitsPerByte(Shared):
    """Cross-entropy on held-out documents of every source, in bits per byte of text."""

    kind: Literal["bits_per_byte"]
    tokens_per_source: Count = 50_000


class Phonebook(Shared):
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


class Needle(Shared):
    """RULER's niah_single_1: one number hidden in repeated noise sentences."""

    kind: Literal["needle"]
    lengths_tokens: Lengths
    samples: Count = 32
    tokens_per_length: Count | None = None
    """Most tokens of prompts a length: fewer samples where they are long, at least two; null for no limit."""
    beyond: Annotated[float, Field(ge=1)] = 4.0
    seed: int = 1


class Task(Strict):
    """One task of lm-eval with its numbers of shots; each number is a run of its own."""

    task: str
    shots: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field([0])


def _word_or_block(value: Any) -> str:
    return BLOCK if isinstance(value, dict | Task) else WORD


NamedTask = Annotated[Annotated[str, Tag(WORD)] | Annotated[Task, Tag(BLOCK)], Discriminator(_word_or_block)]
"""A task by its name alone, or as a block."""


class Harness(Shared):
    """Tasks run by lm-eval's own evaluator: those that are named, those of a preset, or both."""

    kind: Literal["harness"]
    preset: Literal["standard", "mmlu-formats", "long"] | None = None
    """The paper's 12 tasks; MMLU in three formats; 9 natural long-context tasks, RULER's 13 and Phonebook."""
    tasks: list[NamedTask] = Field([])
    """`sidewinder_cloze` (made from held-out text), `sidewinder_phonebook`, or any task name of lm-eval."""
    include_path: str | None = None
    """Folder of task definitions of your own, in lm-eval's form; their names go before lm-eval's."""
    samples: Count | None = None
    """Samples a task (of each subject, where a task has subjects); null for all."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Of tasks that state none themselves."""
    lengths_tokens: Lengths | None = None
    """Of tasks that are made to a length; null for 4096, 8192, … up to the checkpoint's context."""
    beyond: Annotated[float, Field(ge=1)] = 1.0
    """Longest of these lengths as a multiple of the checkpoint's context; longer ones are left out."""
    haystack: Literal["essays", "python"] = "essays"
    """Text around RULER's needles: its essays (a data set), or the topics of Python's own documentation."""
    batch_tokens: Count | None = None
    """Tokens that are read at once; null for as many as suit most machines. Batches only round results differently."""
    digits: Count = 7
    """Of a number in `sidewinder_phonebook` and its reversed form."""
    queries: Count = 1
    """Entries asked of a book of `sidewinder_phonebook`, each by itself. Standard errors take them for independent."""
    seed: int = 1

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that shape results; those of speed alone are left out."""
        return self.model_dump(exclude={"processes", "batch_tokens"})

    @property
    def unit_identity(self) -> dict[str, Any]:
        """The settings that shape the result of a task at one number of shots and one length."""
        return self.model_dump(include={"samples", "haystack", "digits", "queries", "seed"})

    @model_validator(mode="after")
    def _has_tasks(self) -> Self:
        if not self.tasks and self.preset is None:
            raise ValueError("a harness suite needs `tasks`, or a `preset`")
        return self


Suite = Annotated[BitsPerByte | Phonebook | Needle | Harness, Field(discriminator="kind")]
