"""How RULER's samples of a given size are drawn: lm-eval's own templates and random draws, with our text and sizes."""

from __future__ import annotations

import os
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.local_data import LocalData, MissingData
from sidewinder.evaluate.mendable import Mendable

Sample = dict[str, Any]
Maker = Callable[[int, int], Sample]
"""(size in units of noise, place of the sample) → sample; draws from `random`."""


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
QA_FILES = {
    "ruler_qa_squad": ("read_squad", "ruler/dev-v2.0.json"),
    "ruler_qa_hotpot": ("read_hotpotqa", "ruler/hotpot_dev_distractor_v1.json"),
}
ESSAYS = "baber/paul_graham_essays"


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
    if kind == "essay":
        essay = Essay(essay_text(data, haystack), _splitter(data))
        module.cached_sent_tokenize = essay.sentences

    def make(size: int, place: int) -> Sample:
        text: Any = essay.words(size) if kind == "essay" else REPEATED if kind == "repeat" else LINE
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
            random_seed=random.randrange(2**32),
        )
        one = asked * values == 1
        thing, verb = (values_are[:-1], "is") if one else (values_are, "are")
        return {
            "input": prompt,
            "outputs": answers,
            "gen_prefix": f"The special magic {thing} for {query} mentioned in the provided text {verb}",
        }

    return make


@dataclass
class Essay:
    """A text that is used up to any of its words, repeated where it is too short; its sentences are found once."""

    text: str
    split: Callable[[str], list[str]]

    @cached_property
    def _words(self) -> list[str]:
        return re.sub(r"\s+", " ", self.text).strip().split(" ")

    @cached_property
    def _sentences(self) -> list[str]:
        return self.split(" ".join(self._words))

    @cached_property
    def _ends(self) -> list[int]:
        """Where each sentence ends in the text, the space after it not counted."""
        return [end - 1 for end in accumulate(len(sentence) + 1 for sentence in self._sentences)]

    def words(self, count: int) -> list[str]:
        times = -(-count // len(self._words))
        return (self._words * times)[:count]

    def sentences(self, text: str) -> list[str]:
        """Sentences of a beginning of the text, repeated as it may be."""
        whole, rest = divmod(len(text), self._ends[-1] + 1)
        found = self._sentences * whole
        full = bisect_right(self._ends, rest)
        start = self._ends[full - 1] + 1 if full else 0
        found = found + self._sentences[:full]
        return found + ([self._sentences[full][: rest - start]] if rest > start else [])


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


def _splitter(data: LocalData | None) -> Callable[[str], list[str]]:
    """NLTK's sentence splitter where its tables are at hand, else a plain rule; needles go between sentences."""
    import nltk

    folder = data.folder / "nltk_data" if data else None
    if folder and folder.is_dir() and str(folder) not in nltk.data.path:
        nltk.data.path.append(str(folder))
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return lambda text: re.split(r"(?<=[.!?]) ", text)
    return lambda text: _joined(nltk.sent_tokenize(text), text)


def _joined(sentences: list[str], text: str) -> list[str]:
    """The sentences, if they are the text cut at single spaces, which the places of needles rest on."""
    return sentences if " ".join(sentences) == text else re.split(r"(?<=[.!?]) ", text)


# Chains of variables, words, questions


def _chain_maker() -> Maker:
    module = _module("vt_utils")
    head = " Answer: According to the chain(s) of variable assignment"

    def make(size: int, place: int) -> Sample:
        example, found = _drawn(module, 5, is_icl=True)
        example = module.randomize_icl(f"{example} {' '.join(found)}\n\n")
        text, answers = _drawn(module, max(size, 6))
        at = text.rfind(head)
        return {"input": f"{example}\n\n{text[:at]}", "outputs": answers, "gen_prefix": text[at:].strip()}

    return make


def _drawn(module: Any, noises: int, **settings: Any) -> tuple[str, list[str]]:
    """One chain of four steps. lm-eval's code fails where it draws a name twice; the next draw then serves."""
    for _ in range(20):
        with suppress(IndexError):
            text, names = module.generate_input_output(noises, 1, 4, **settings)
            return text, names
    raise EvaluationError("ruler_vt: no chain of different names was drawn", remedy="change the suite's seed")


def _common_words_maker(length_tokens: int) -> Maker:
    module = _module("cwe_utils")
    prefix, known = module.CONFIG["answer_prefix"], len(module.WORDS)

    def make(size: int, place: int) -> Sample:
        count = size + 10  # The ten common ones, and others.
        if count > len(module.WORDS):  # As RULER's needles, where single words do not suffice.
            words = module.WORDS[:known]
            step = 1 + len(module.WORDS) // known
            pairs = [f"{word}-{words[(at * 7 + step) % known]}" for at, word in enumerate(words)]
            module.WORDS = list(dict.fromkeys([*module.WORDS, *pairs]))
        module.RNG = random.Random(random.randrange(2**32))
        _, text, answers = module.generate_input_output(min(count, len(module.WORDS)), length_tokens)
        return {"input": text[: text.rfind(prefix)].strip(), "outputs": answers, "gen_prefix": prefix.strip()}

    return make


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

    return make


def _question_maker(task: str, data: LocalData | None) -> Maker:
    module = _module("qa_utils")
    reader, file = QA_FILES[task]
    if data is not None:
        content = data.json(file)
        module.download_json = lambda url: content
        getattr(module, reader).cache_clear()
    questions, documents = getattr(module, reader)()

    def make(size: int, place: int) -> Sample:
        at = place % len(questions)
        needed = len(questions[at]["context"])
        text, answers = module.generate_input_output(at, needed + size - 1, qas=questions, docs=documents)
        return {"input": text, "outputs": answers, "gen_prefix": "Answer:"}

    return make


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
def fetching_nothing() -> Iterator[None]:
    """While RULER's modules are imported: where NLTK's tables are missing they would fetch them, from wherever this
    runs, and say so on a stream that may be closed. `_splitter` does without."""
    try:
        import nltk
    except ImportError:  # Told of by what needs it.
        yield
        return
    download, before = nltk.download, os.environ.get("LOCAL_RANK")
    nltk.download = lambda *names, **settings: False
    os.environ["LOCAL_RANK"] = "-1"
    try:
        yield
    finally:
        nltk.download = download
        os.environ.pop("LOCAL_RANK")
        if before is not None:
            os.environ["LOCAL_RANK"] = before
