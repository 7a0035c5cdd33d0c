"""RULER's 13 tasks (Hsieh et al., arXiv 2404.06654) made to a length in our own tokenizer, without a network.

Templates, random draws and scorers are those of lm-eval's modules. What is different, and why:

- *Length*: prompt and room for the answer fill between 99 % and 100 % of the target. lm-eval adds noise in steps of up
  to 500 words, which is a tenth of 4K. Where whole lines or documents come in too large units, other draws are tried.
- *Seeds*: a sample is a function of seed, task, length and its place.
- *Text*: RULER's essays from the data folder, or the topics of Python's documentation; repeated where too short.
- *QA score*: the best of the references, as RULER's own scorer; lm-eval's gives a third for one of three references.
"""

from __future__ import annotations

import os
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.local_data import LocalData, MissingData

Sample = dict[str, Any]
SHARE_FILLED = 0.99
DRAWS = 60
"""Draws tried for one sample that would fall short of the target."""
ROOM = {"niah": 128, "ruler_vt": 30, "ruler_cwe": 120, "ruler_fwe": 50, "ruler_qa_squad": 32, "ruler_qa_hotpot": 32}
"""Tokens to generate, of the prompt's target length."""
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


def make(
    task: str,
    length_tokens: int,
    samples: int,
    encode: Callable[[str], Sequence[int]],
    *,
    seed: int,
    data: LocalData | None = None,
    haystack: str = "essays",
) -> list[Sample]:
    """Samples in the form of lm-eval's own, all of that length.

    Raises MissingData where the task's text is not at hand, EvaluationError where no sample fits the length.
    """
    room = ROOM["niah"] if task in NEEDLES else ROOM[task]
    maker = _maker(task, length_tokens, data, haystack)
    fitter = Fitter(task, length_tokens - room, lambda sample: len(encode(prompt_of(task, sample))), maker)
    made = []
    for index in range(samples):
        sample, length = fitter.sample(f"ruler {seed} {task} {length_tokens} {index}", index)
        sample |= {"index": index, "length": length + room, "max_length": length_tokens}
        made.append(sample)
    return made


def prompt_of(task: str, sample: Sample) -> str:
    """What lm-eval makes of a sample: the text, a delimiter, the beginning of the answer."""
    return f"{sample['input']}{DELIMITERS.get(task, ' ')}{sample['gen_prefix']}"


DELIMITERS = {"ruler_cwe": "\n\n"}
Maker = Callable[[int, int], Sample]
"""(size in units of noise, place of the sample) → sample; draws from `random`."""


@dataclass
class Fitter:
    """Finds for each sample the largest size that fits; the size of one sample is the first guess for the next."""

    task: str
    room: int
    count: Callable[[Sample], int]
    make: Maker
    guess: int = 10
    unit: float = field(default=0.0)
    """Tokens of one unit of noise, as last seen."""

    def sample(self, seed: str, place: int) -> tuple[Sample, int]:
        """A sample and its length in tokens: the first of DRAWS that fills the room, or the fullest of them."""
        best: tuple[Sample, int] | None = None
        for draw in range(DRAWS):
            found = self._largest(f"{seed} {draw}", place)
            if found and (best is None or found[1] > best[1]):
                best = found
            if best and best[1] >= SHARE_FILLED * self.room:
                return best
        if best is None:
            raise EvaluationError(
                f"{self.task}: no prompt fits in {self.room} tokens", remedy="ask for longer lengths, or fewer tasks"
            )
        return best

    def _largest(self, seed: str, place: int) -> tuple[Sample, int] | None:
        """By steps of what is missing over the tokens of a unit, until the next size would be too long."""
        sizes: dict[int, tuple[Sample, int]] = {}
        low, high, size = 0, None, max(1, self.guess)
        while size not in sizes:
            sizes[size] = found = self._made(seed, size, place)
            low, high = (size, high) if found[1] <= self.room else (low, size)
            if len(sizes) > 1:
                self._learn(sizes)
            missing = (self.room - found[1]) / (self.unit or max(1.0, found[1] / size))
            size = max(1, size + (int(missing) if missing >= 0 else int(missing) - 1))
            if high is not None and size >= high:
                size = max(low, high - 1, 1) if high - low > 1 else max(low, 1)
        self.guess = max(1, low)
        return sizes.get(low)

    def _learn(self, sizes: dict[int, tuple[Sample, int]]) -> None:
        first, last = min(sizes), max(sizes)
        slope = (sizes[last][1] - sizes[first][1]) / (last - first)
        self.unit = max(slope, 0.1)

    def _made(self, seed: str, size: int, place: int) -> tuple[Sample, int]:
        with seeded(seed):
            sample = self.make(size, place)
        return sample, self.count(sample)


@contextmanager
def seeded(seed: str) -> Iterator[None]:
    """lm-eval's generators draw from the global random number generators, which are put back afterwards."""
    import numpy as np

    before, before_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(random.randrange(2**32))
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)


def _maker(task: str, length_tokens: int, data: LocalData | None, haystack: str) -> Maker:
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
    module, niah = _prepare_niah(), _module("niah_utils")
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
        example, found = module.generate_input_output(5, 1, 4, is_icl=True)
        example = module.randomize_icl(f"{example} {' '.join(found)}\n\n")
        text, answers = module.generate_input_output(max(size, 6), 1, 4)
        at = text.rfind(head)
        return {"input": f"{example}\n\n{text[:at]}", "outputs": answers, "gen_prefix": text[at:].strip()}

    return make


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
        raise EvaluationError(f"RULER needs a library: {error}", remedy="pip install 'lm_eval[ruler]'") from error


def _prepare_niah() -> Any:
    """Its import fetches NLTK's tables where they are missing, which is not waited for: `_splitter` does without."""
    import nltk

    download = nltk.download
    nltk.download = lambda *names, **settings: False
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "-1"  # Or it would say that it fetched them.
    try:
        return _module("prepare_niah")
    finally:
        nltk.download = download
        os.environ.pop("LOCAL_RANK")
        if before is not None:
            os.environ["LOCAL_RANK"] = before
