"""Mistakes in filters, deduplication and decontamination are named by key, with value and remedy."""

from typing import Any

import pytest

from sidewinder.config.filters import GopherQuality, MinHash
from sidewinder.config.load import parse_study
from sidewinder.config.study import Study
from sidewinder.errors import ConfigError


def study(source: dict[str, Any], **values: Any) -> Study:
    return parse_study(
        {
            "study": "test",
            "sources": {"a": {"reader": {"kind": "text", "path": "."}, **source}},
            "blend": {"a": 1.0},
            "models": {"toy": {"pattern": "*-", "hidden_size": 64}},
            "training": {
                "context_tokens": 64,
                "batch_sequences": 4,
                "budget_tokens": 10_000,
                "learning_rate": 1e-3,
                "minimum_learning_rate": 1e-4,
            },
            **values,
        }
    )


def mistake(source: dict[str, Any], **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        study(source, **values)
    text = str(caught.value)
    assert "1 mistake\n" in text
    return text


def test_defaults_and_forms() -> None:
    plain = study({}).sources["a"]
    assert (plain.filters, plain.deduplicate) == ([], "exact")
    full = study(
        {
            "filters": [{"kind": "gopher_quality", "min_stop_words": None}],
            "deduplicate": {"kind": "minhash", "seed": 3},
        },
        decontaminate={"files": ["a.jsonl"]},
    )
    assert full.sources["a"].filters == [GopherQuality(kind="gopher_quality", min_stop_words=None)]
    assert full.sources["a"].deduplicate == MinHash(kind="minhash", seed=3)
    assert full.decontaminate is not None
    assert full.decontaminate.ngram == 13
    assert Study.model_validate_json(full.model_dump_json()) == full


def test_an_unknown_key_of_a_block_names_the_nearest_of_that_block() -> None:
    text = mistake({"filters": [{"kind": "regex", "pattern": "a"}, {"kind": "gopher_quality", "min_doc_word": 3}]})
    assert "sources.a.filters.1.min_doc_word: unknown key" in text
    assert "rename it to 'min_doc_words'" in text
    assert "dup_line_frac" not in text


def test_an_unknown_block_names_all() -> None:
    text = mistake({"filters": [{"kind": "gopher"}]})
    assert "sources.a.filters.0:" in text
    assert "'gopher_repetition'" in text


def test_a_pattern_that_is_none() -> None:
    text = mistake({"filters": [{"kind": "regex", "pattern": "("}]})
    assert "sources.a.filters.0.pattern: not a regular expression" in text
    assert "value: '('" in text


@pytest.mark.parametrize("value", ["fuzzy", 3, ["exact"]])
def test_deduplicate_is_one_of_two_words(value: object) -> None:
    text = mistake({"deduplicate": value})
    assert "sources.a.deduplicate: Input should be 'exact' or 'none'" in text
    assert "use one of 'exact' or 'none'" in text


def test_deduplicate_as_a_block() -> None:
    text = mistake({"deduplicate": {"kind": "minhash", "ngrams": 5}})
    assert "sources.a.deduplicate.ngrams: unknown key" in text
    assert "rename it to 'ngram'" in text
    assert "sources.a.deduplicate.buckets" in mistake({"deduplicate": {"kind": "minhash", "buckets": 0}})


def test_decontaminate_needs_files() -> None:
    assert "decontaminate.files: missing" in mistake({}, decontaminate={"ngram": 8})
    assert "decontaminate.files" in mistake({}, decontaminate={"files": []})
