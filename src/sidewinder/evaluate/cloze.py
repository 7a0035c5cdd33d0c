"""A cloze task from the study's own held-out text: choose the last word of a sentence among four.

The three wrong words end other sentences, of the same document where it has enough of them. Everything is drawn with a
seed, so the same held-out text gives the same file.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sidewinder.errors import DataError, EvaluationError
from sidewinder.evaluate.heldout import Heldout
from sidewinder.record import write_atomically

TASK = "sidewinder_cloze"
FILE = "cloze.jsonl"
VERSION = 1
CHOICES = 4
FEWEST_CHARACTERS, MOST_CHARACTERS = 100, 200  # Of the context before the word.
PER_DOCUMENT = 4
SENTENCE_END = re.compile(r"(?<=[a-z,]) ([a-z]{4,})\.(?=\s)")


@dataclass(frozen=True)
class Cloze:
    """One question: `choices[answer]` continues `context` after a space."""

    source: str
    document: int
    context: str
    choices: list[str]
    answer: int


def write_cloze(heldout: Heldout, samples: int | None, seed: int, path: Path) -> list[Cloze]:
    """Makes the data set and writes it as JSON lines.

    Raises EvaluationError where no source is English or its held-out text has too few sentences.
    """
    source = english_source(heldout)
    texts = [heldout.tokenizer.decode(document.tolist()) for document in heldout.documents(source)]
    questions = make_cloze(texts, source, samples, seed)
    write_atomically(path, "".join(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions))
    return questions


def read_cloze(path: Path) -> list[dict[str, Any]]:
    """The questions of a file. Raises DataError, naming the line, where one is not a question."""
    questions = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            questions.append(asdict(Cloze(**json.loads(line))))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: {error}", remedy="delete the file and run the study again"
            ) from None
    return questions


def english_source(heldout: Heldout) -> str:
    """The English source with the largest share of the blend."""
    english = [name for name, language in heldout.languages.items() if language == "en" and name in heldout.shares]
    if not english:
        raise EvaluationError(
            f"{TASK} needs English text, but no source of the blend has `language: en`",
            remedy="set the language of a source, or take the task out of the suite",
        )
    return max(english, key=lambda name: heldout.shares[name])


def make_cloze(texts: Sequence[str], source: str, samples: int | None, seed: int) -> list[Cloze]:
    """At most `samples` questions (all for None), at most PER_DOCUMENT from one document."""
    rng = random.Random(f"cloze {seed}")
    ends = [[found for found in SENTENCE_END.finditer(text) if found.start() >= FEWEST_CHARACTERS] for text in texts]
    places = [
        (document, found) for document, all_found in enumerate(ends) for found in _some(rng, all_found, PER_DOCUMENT)
    ]
    everything = sorted({found[1] for all_found in ends for found in all_found})
    if len(everything) < CHOICES:
        raise EvaluationError(
            f"{TASK}: the held-out text of {source} has only {len(everything)} usable sentence ends",
            remedy="raise heldout_share, or take the task out of the suite",
        )
    questions = []
    for document, found in _some(rng, places, samples or len(places)):
        own = sorted({other[1] for other in ends[document]} - {found[1]})
        others = [word for word in everything if word != found[1] and word not in own]
        wrong = [*rng.sample(own, min(len(own), CHOICES - 1))]
        wrong += rng.sample(others, CHOICES - 1 - len(wrong))
        choices = rng.sample([found[1], *wrong], CHOICES)
        context = _before(texts[document], found.start())
        questions.append(Cloze(source, document, context, choices, choices.index(found[1])))
    return questions


def _some(rng: random.Random, items: list[Any], count: int) -> list[Any]:
    """At most `count` items, drawn without order of preference, kept in their order."""
    return [items[place] for place in sorted(rng.sample(range(len(items)), min(count, len(items))))]


def _before(text: str, end: int) -> str:
    """The text before a place, from the beginning of a word."""
    start = max(0, end - MOST_CHARACTERS)
    while start and start < end and not text[start - 1].isspace():
        start += 1
    return text[start:end].lstrip()
