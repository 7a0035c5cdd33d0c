"""What a look before any work finds wrong with filters and decontamination: files, packages, languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from sidewinder.config import filters
from sidewinder.config.corpus import Source
from sidewinder.config.study import Study
from sidewinder.corpus.filters.chain import named_files
from sidewinder.corpus.filters.labels import model_labels
from sidewinder.corpus.filters.lists import read_list
from sidewinder.errors import DataError

URL_PACKAGES = {"tldextract": "tldextract", "ahocorasick": "pyahocorasick", "fasteners": "fasteners"}


def mistakes(name: str, source: Source) -> Iterator[str]:
    """What is wrong with a source's filters: key, value and remedy of each."""
    for place, config in enumerate(source.filters):
        key = f"sources.{name}.filters.{place}"
        missing = list(_missing_files(key, config))
        yield from missing
        if isinstance(config, filters.Language) and not missing:
            yield from _model_mistakes(key, config)
        elif isinstance(config, filters.Url):
            yield from _url_mistakes(key)
        elif isinstance(config, filters.GopherQuality):
            yield from _stop_word_mistakes(key, config, source.language)


def decontamination_mistakes(study: Study) -> Iterator[str]:
    """Evaluation files that are not there."""
    for place, path in enumerate(study.decontaminate.files if study.decontaminate else []):
        if not Path(path).is_file():
            yield _missing(f"decontaminate.files.{place}", path)


def _missing_files(key: str, config: filters.Filter) -> Iterator[str]:
    for own, path in named_files(config):
        if not Path(path).is_file():
            yield _missing(f"{key}.{own}", path)
        elif not isinstance(config, filters.Language) and (wrong := _list_mistake(path)):
            yield _mistake(f"{key}.{own}", wrong, path, "one entry a line, in UTF-8")


def _list_mistake(path: str) -> str:
    try:
        return "" if read_list(path) else "the file has no entry"
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot read the file: {error}"


def _missing(key: str, path: str) -> str:
    beside = sorted(str(entry) for entry in Path(path).parent.iterdir()) if Path(path).parent.is_dir() else []
    near = get_close_matches(path, beside, n=1, cutoff=0.0)
    return _mistake(key, "no such file", path, f"mend the path{f'; nearest: {near[0]}' if near else ''}")


def _model_mistakes(key: str, config: filters.Language) -> Iterator[str]:
    if find_spec("fasttext") is None:
        yield _mistake(
            f"{key}.model", "reading the model needs a package", config.model, "pip install fasttext-predict"
        )
    try:
        labels = model_labels(Path(config.model))
    except DataError as error:
        what, _, remedy = str(error).partition("\n  remedy: ")
        yield _mistake(f"{key}.model", what, config.model, remedy)
        return
    for language in config.languages:
        if language not in labels:
            near = get_close_matches(language, labels, n=3, cutoff=0.0)
            yield _mistake(
                f"{key}.languages",
                f"the model has no label {language!r}",
                language,
                f"use one of its: {', '.join(near)}",
            )


def _url_mistakes(key: str) -> Iterator[str]:
    missing = [package for module, package in URL_PACKAGES.items() if find_spec(module) is None]
    if missing:
        yield _mistake(f"{key}.kind", "the block needs packages", "url", f"pip install {' '.join(missing)}")


def _stop_word_mistakes(key: str, config: filters.GopherQuality, language: str) -> Iterator[str]:
    """English stop words would drop every document in another language."""
    english = re.match(r"en(g|$|[-_])", language) is not None
    if config.min_stop_words and config.stop_words is None and not english:
        yield _mistake(
            f"{key}.stop_words",
            f"the default ones are English, the source's language is {language!r}",
            None,
            "list stop words of the language, or set min_stop_words: null",
        )


def _mistake(key: str, what: str, value: object, remedy: str) -> str:
    return f"  {key}: {what}\n    value: {value!r}\n    remedy: {remedy}"
