"""How RULER's samples of a given size are drawn: lm-eval's own templates and random draws, with our text and sizes."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.local_data import LocalData, MissingData
from sidewinder.evaluate.mendable import Mendable

Sample = dict[str, Any]
PLACES = 20
"""Tried before a task is given up that draws its samples: one may be too long by its keys alone."""


# Task: haystack, kind of key, kind of value, keys, values a key, keys asked.
NEEDLES: dict[str, tuple[str, str, str, int, int, int]] = {
    "niah_single_1": ("repeat", "words", "numbers", 1, 1, 1),
    "niah_single_2": ("essay", "words", "numbers", 1, 1, 1),
    "niah_single_3": ("essay", "words", "uuids", 1, 1, 1),
    "niah_multikey_1": ("essay", "words", "numbers", 4, 1, 1),
    "niah_multikey_2": ("needle", "words", "numbers", 1, 1, 1),
    "niah_multikey_3": ("needle", "uuids", "uuids", 1, 1, 1),
    "niah_multivalue": ("essay", "words", "numbers", 1, 4, 1),
    "niah_multiquery": ("essay", "words", "numbers", 4, 1, 4),
}
REPEATED = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
LINE = "One of the special magic {type_needle_v} for {key} is: {value}."
EXAMPLE_LINES = 10
"""Lines of noise in the example before a chain: what lm-eval's search ends with where a line has 23 to 33 tokens, which
it has in vocabularies of tens of thousands."""
QA_FILES = {
    "ruler_qa_squad": ("read_squad", "ruler/dev-v2.0.json"),
    "ruler_qa_hotpot": ("read_hotpotqa", "ruler/hotpot_dev_distractor_v1.json"),
}
ESSAYS = "baber/paul_graham_essays"


@dataclass(frozen=True)
class Maker:
    """Makes the samples of a task."""

    make: Callable[[int, int], Sample]
    """(size in units of noise, place of the sample) → sample; draws from the global random number generators."""
    places: int = PLACES
    """Tried before a length is given up; all questions, where there is a list of them."""
    most: Callable[[int], int] = lambda place: sys.maxsize
    """Place → the size that takes all of the task's text."""


def maker_for(task: str, length_tokens: int, data: LocalData | None, haystack: str) -> Maker:
    """What makes the samples of a RULER task. Raises MissingData where its text is not at hand."""
    if task in NEEDLES:
        return _needle_maker(task, data, haystack)
    if task == "ruler_vt":
        return _chain_maker()
    if task == "ruler_cwe":
        return _common_words_maker(length_tokens)
    if task == "ruler_fwe":
        return _frequent_words_maker(length_tokens)
    return _question_maker(task, data)


# Needles in a haystack


def _needle_maker(task: str, data: LocalData | None, haystack: str) -> Maker:
    with fetching_nothing():
        module, niah = _module("prepare_niah"), _module("niah_utils")
    kind, keys_are, values_are, keys, values, asked = NEEDLES[task]
    keys = max(keys, asked)
    words = re.sub(r"\s+", " ", essay_text(data, haystack)).strip().split(" ") if kind == "essay" else []

    def make(size: int, place: int) -> Sample:
        text: Any = list(islice(cycle(words), size)) if words else REPEATED if kind == "repeat" else LINE
        with replaced(module, cached_sent_tokenize=sentences):
            prompt, answers, query = module.generate_input_output(
                max(size, keys * values),
                text,
                type_haystack=kind,
                num_needle_k=keys,
                type_needle_k=keys_are,
                num_needle_v=values,
                type_needle_v=values_are,
                template=niah.TEMPLATE,
                num_needle_q=asked,
            )
        one = asked * values == 1
        thing, verb = (values_are[:-1], "is") if one else (values_are, "are")
        return {
            "input": prompt,
            "outputs": answers,
            "gen_prefix": f"The special magic {thing} for {query} mentioned in the provided text {verb}",
        }

    return Maker(make)


def sentences(text: str) -> list[str]:
    """The text cut at spaces after full stops, between which needles go.

    lm-eval cuts by NLTK's tables; those are not on every machine, and a sample must not depend on that.
    """
    return re.split(r"(?<=[.!?]) ", text)


def essay_text(data: LocalData | None, haystack: str) -> str:
    """RULER's essays, or the topics of Python's own documentation, which need no download."""
    if haystack == "python":
        from pydoc_data.topics import topics

        return " ".join(topics[name] for name in sorted(topics))
    if data is not None:
        return " ".join(data.load(ESSAYS, None, "train")["text"])
    import datasets

    try:
        return " ".join(datasets.load_dataset(ESSAYS, split="train")["text"])
    except Exception as error:  # The hub's client raises errors of many kinds.
        raise MissingData(
            f"RULER's essays ({ESSAYS}) cannot be had: {type(error).__name__}: {error}",
            remedy="name a data folder (`data`), or set `haystack: python` in the suite",
        ) from error


# Chains of variables, words, questions


def _chain_maker() -> Maker:
    module = _module("vt_utils")
    head = " Answer: According to the chain(s) of variable assignment"

    def make(size: int, place: int) -> Sample:
        example, found = _drawn(module, EXAMPLE_LINES, is_icl=True)
        text, answers = _drawn(module, max(size, 6))  # With fewer, lm-eval cuts the lines up.
        example = module.randomize_icl(f"{example} {' '.join(found)}\n\n")
        at = text.rfind(head)
        return {"input": f"{example}\n\n{text[:at]}", "outputs": answers, "gen_prefix": text[at:].strip()}

    return Maker(make)


def _drawn(module: Any, noises: int, **settings: Any) -> tuple[str, list[str]]:
    """One chain of four steps. lm-eval's code fails where it draws a name twice; the next draw then serves."""
    for _ in range(20):
        with suppress(IndexError):
            text, names = module.generate_input_output(noises, 1, 4, **settings)
            return text, names
    raise EvaluationError("ruler_vt: no chain of different names was drawn", remedy="change the suite's seed")


def _common_words_maker(length_tokens: int) -> Maker:
    module = _module("cwe_utils")
    prefix, known = module.CONFIG["answer_prefix"], tuple(module.WORDS)

    def make(size: int, place: int) -> Sample:
        count = size + 10  # The ten common ones, and others.
        with replaced(module, WORDS=_enough_words(known, count), RNG=random.Random(random.randrange(2**32))):
            _, text, answers = module.generate_input_output(count, length_tokens)
        return {"input": text[: text.rfind(prefix)].strip(), "outputs": answers, "gen_prefix": prefix.strip()}

    return Maker(make)


def _enough_words(known: Sequence[str], count: int) -> list[str]:
    """The known words, and where these do not suffice pairs of them, which are of the form of RULER's keys."""
    words, step = list(known), 1
    while len(words) < count:
        step += 1
        pairs = (f"{word}-{known[(at * 7 + step) % len(known)]}" for at, word in enumerate(known))
        words = list(dict.fromkeys([*words, *pairs]))
    return words


def _frequent_words_maker(length_tokens: int) -> Maker:
    module = _module("fwe_utils")
    prefix = module.CONFIG["answer_prefix"]

    def uncounted(text: str) -> Any:
        """A tokenizer that finds every text short enough: the length is our own business."""
        return type("Encoded", (), {"input_ids": ()})

    def make(size: int, place: int) -> Sample:
        words = max(40, length_tokens // 50)
        text, answers, _ = module.generate_input_output(
            length_tokens, uncounted, num_words=size + 100, vocab_size=words
        )
        return {"input": text[: text.rfind(prefix)].strip(), "outputs": answers, "gen_prefix": prefix.strip()}

    return Maker(make)


def _question_maker(task: str, data: LocalData | None) -> Maker:
    module = _module("qa_utils")
    reader, file = QA_FILES[task]
    read = getattr(module, reader).__wrapped__  # Without the cache, from which lm-eval's own task would get our file.
    download = (lambda url: data.json(file)) if data else module.download_json
    with replaced(module, download_json=download):
        questions, documents = read()

    def needed(place: int) -> int:
        return len(questions[place % len(questions)]["context"])

    def make(size: int, place: int) -> Sample:
        at, count = place % len(questions), needed(place) + size - 1
        # A copy, because lm-eval shuffles in place what it is given where it takes all of it.
        text, answers = module.generate_input_output(at, count, qas=questions, docs=list(documents))
        return {"input": text, "outputs": answers, "gen_prefix": "Answer:"}

    return Maker(make, len(questions), lambda place: max(1, len(documents) - needed(place) + 1))


def best_reference(doc: Sample, results: Sequence[str]) -> dict[str, float]:
    """RULER's score of a question: whether any reference is in the answer."""
    found = _module("common_utils").postprocess_pred(results)[0].lower()
    return {str(doc["max_length"]): float(any(answer.lower() in found for answer in doc["outputs"]))}


# lm-eval's modules


def _module(name: str) -> Any:
    """A module of lm-eval's RULER, the one that its tasks use. Raises EvaluationError where a library is missing."""
    from pathlib import Path

    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import _load_module_with_cache

    try:
        return _load_module_with_cache((Path(lm_eval.tasks.__file__).parent / "ruler" / f"{name}.py").resolve())
    except ImportError as error:
        raise Mendable(f"RULER needs a library: {error}", remedy="pip install 'lm_eval[ruler]'") from error


@contextmanager
def replaced(module: Any, **values: Any) -> Iterator[None]:
    """A module with other values for these names, which lm-eval's own tasks find as they were afterwards."""
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


@contextmanager
def fetching_nothing() -> Iterator[None]:
    """While RULER's modules are imported: where NLTK's tables are missing they would fetch them, from wherever this
    runs, and say so on a stream that may be closed. `sentences` does without."""
    try:
        import nltk
    except ImportError:  # Told of by what needs it.
        yield
        return
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "-1"
    try:
        with replaced(nltk, download=lambda *names, **settings: False):
            yield
    finally:
        os.environ.pop("LOCAL_RANK")
        if before is not None:
            os.environ["LOCAL_RANK"] = before
