"""datatrove's filters as a study's configuration sets them, without what they would download or drag in."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from itertools import islice
from typing import Any, Self

from datatrove.data import Document
from datatrove.pipeline import filters as datatrove
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.c4_filters import C4BadWordsFilter, C4ParagraphFilter, C4QualityFilter
from datatrove.utils.lid import LID
from datatrove.utils.text import PUNCTUATION_SET, split_into_parts

import sidewinder.corpus.quiet  # noqa: F401
from sidewinder.config import filters
from sidewinder.corpus.filters.block import Decision, encoded
from sidewinder.corpus.filters.lists import read_list
from sidewinder.corpus.filters.url import UrlFilter
from sidewinder.corpus.filters.words import words

LARGE = 1_000_000  # Characters: the words of a longer text take 15 times its memory and more.
UNSPACED_LANGUAGES = ("ja", "th", "zh")  # As in C4's own code: no space around a word is asked for.


def decision(config: filters.Filter, language: str) -> Callable[[Document], Decision]:
    """The decision of a filter on a document. Documents without a visible character are dropped before it."""
    decide = _step(config, language).filter

    def guarded(document: Document) -> Decision:
        if not document.text or document.text.isspace():
            return False, "empty"  # datatrove's blocks divide by the number of words.
        try:
            return decide(document)
        finally:
            if len(document.text) > LARGE:
                split_into_parts.cache_clear()  # datatrove keeps the words of the last five texts.

    return guarded


def _step(config: filters.Filter, language: str) -> BaseFilter:
    values = config.model_dump(exclude={"kind"})
    step: BaseFilter
    match config:
        case filters.GopherQuality():
            step = GopherQuality(**values, language=words())
        case filters.GopherRepetition():
            step = datatrove.GopherRepetitionFilter(**values, language=words())
        case filters.FineWebQuality():
            stop_chars = tuple(config.stop_chars) if config.stop_chars else None
            step = datatrove.FineWebQualityFilter(**values | {"stop_chars": stop_chars}, language=words())
        case filters.C4Quality():
            step = C4QualityFilter(
                **{key: -1 if value is None else value for key, value in values.items()}, language=words()
            )
        case filters.C4Paragraphs():
            step = C4ParagraphFilter()
        case filters.C4BadWords():
            step = BadWords(config, language)
        case filters.Url():
            step = UrlFilter(config)
        case filters.Regex():
            step = datatrove.RegexFilter(config.pattern)
        case filters.Language():
            step = Language(config)
    # Blocks count lines and scores one by one through `stat_update`, which costs as much as their work.
    setattr(step, "stat_update", _ignore)  # noqa: B010
    return step


class GopherQuality(datatrove.GopherQualityFilter):
    """datatrove's filter; it finds a document to be too long without a list of all its words."""

    def filter(self, doc: Document) -> Decision:
        if self.max_doc_words and self.max_doc_words >= (self.min_doc_words or 0) and len(doc.text) > LARGE:
            several = (word for word in words().each(doc.text) if any(letter not in PUNCTUATION_SET for letter in word))
            if next(islice(several, self.max_doc_words, None), None) is not None:
                return False, "gopher_long_doc"
        return super().filter(doc)


def _ignore(*labels: str, value: int = 1, unit: str | None = None) -> None:
    """In place of datatrove's statistics: a block's counts are kept by Block."""


class BadWords(C4BadWordsFilter):
    """C4's rule with a list from a file, and a share of keepers chosen by hash rather than by order."""

    def __init__(self, config: filters.C4BadWords, language: str) -> None:
        super().__init__(keep_fraction=config.keep_fraction)
        self.seed = config.seed
        alternatives = "|".join(re.escape(word.lower()) for word in read_list(config.path))
        unspaced = language in UNSPACED_LANGUAGES
        self.pattern = re.compile(alternatives if unspaced else rf"(?:\W|^)({alternatives})(?:\W|$)")

    def _get_badwords(self, lang: str) -> re.Pattern[str]:
        return self.pattern

    def filter(self, doc: Document) -> Decision:
        self.uniform = lambda: _unit(doc.text, self.seed)
        return super().filter(doc)


def _unit(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on a text and a seed alone."""
    key = blake2b(encoded(text), digest_size=8, salt=seed.to_bytes(8, "little", signed=True)).digest()
    return int.from_bytes(key) / 2**64


class Language(datatrove.LanguageFilter):
    """datatrove's language filter with a model from a file, read by whichever package offers module `fasttext`."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cls)  # Skips datatrove's demand for one certain package of that module.

    def __init__(self, config: filters.Language) -> None:
        super().__init__(languages=config.languages, language_threshold=config.language_threshold)
        self.model = LocalModel(config.model, config.languages)


class LocalModel(LID):
    """A fastText model as datatrove asks it: the best label, and the score of each language wanted."""

    def __init__(self, path: str, languages: list[str]) -> None:
        super().__init__(languages)
        self.model = load_fasttext(path)

    def predict(self, doc: Document) -> tuple[tuple[str, float], dict[str, float]]:
        labels, scores = self.model.predict(doc.text.replace("\n", " "), k=-1)
        found = {label.removeprefix("__label__"): float(score) for label, score in zip(labels, scores, strict=True)}
        best = max(found.items(), key=lambda pair: pair[1]) if found else ("", 0.0)
        return best, {language: found.get(language, 0.0) for language in self.languages}


def load_fasttext(path: str) -> Any:
    """A fastText model. Raises ValueError where the file is not one."""
    from fasttext.FastText import _FastText  # Not `load_model`: it may print to standard error.

    return _FastText(str(path))
