"""Before any work, what filters lack is named with key, value and remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.corpus.fasttext_model import write_model
from tests.corpus.test_filters import LANGUAGES

from sidewinder.corpus.filters import decontamination_mistakes, mistakes
from sidewinder.graph import Graph

GraphOf = Callable[..., Graph]


def found(graph_of: GraphOf, *filters: dict[str, Any], **settings: Any) -> list[str]:
    study = graph_of({"kind": "jsonl", "path": "."}, filters=list(filters), **settings).study
    return [*mistakes("text", study.sources["text"]), *decontamination_mistakes(study)]


def test_good_filters_pass(tmp_path: Path, graph_of: GraphOf) -> None:
    model = write_model(tmp_path / "model.bin", LANGUAGES)
    (tmp_path / "list.txt").write_text("word\n")
    filters = [
        {"kind": "language", "model": str(model), "languages": ["en", "de"]},
        {"kind": "c4_bad_words", "path": str(tmp_path / "list.txt")},
        {"kind": "url", "domains": str(tmp_path / "list.txt")},
        {"kind": "gopher_quality"},
        {"kind": "gopher_repetition"},
    ]
    assert found(graph_of, *filters, decontaminate={"files": [str(tmp_path / "list.txt")]}) == []


def test_missing_files_name_key_value_and_nearest(tmp_path: Path, graph_of: GraphOf) -> None:
    write_model(tmp_path / "lid.176.bin", LANGUAGES)
    filters = [
        {"kind": "regex", "pattern": "x"},
        {"kind": "language", "model": str(tmp_path / "lid176.bin"), "languages": ["en"]},
        {"kind": "url", "urls": str(tmp_path / "urls.txt"), "domains": str(tmp_path / "domains.txt")},
    ]
    wrong = found(
        graph_of, *filters, decontaminate={"files": [str(tmp_path / "lid.176.bin"), str(tmp_path / "gone.jsonl")]}
    )
    assert [mistake.split(":")[0].strip() for mistake in wrong] == [
        "sources.text.filters.1.model",
        "sources.text.filters.2.domains",
        "sources.text.filters.2.urls",
        "decontaminate.files.1",
    ]
    assert f"value: '{tmp_path / 'lid176.bin'}'" in wrong[0]
    assert f"nearest: {tmp_path / 'lid.176.bin'}" in wrong[0]


def test_a_file_that_is_no_model(tmp_path: Path, graph_of: GraphOf) -> None:
    (tmp_path / "model.bin").write_bytes(b"not a model at all")
    (mistake,) = found(graph_of, {"kind": "language", "model": str(tmp_path / "model.bin"), "languages": ["en"]})
    assert "sources.text.filters.0.model: not a fastText model: it does not begin as one" in mistake
    assert "remedy: name a model (.bin or .ftz)" in mistake


def test_a_language_that_the_model_does_not_know(tmp_path: Path, graph_of: GraphOf) -> None:
    model = write_model(tmp_path / "model.bin", LANGUAGES)
    (mistake,) = found(graph_of, {"kind": "language", "model": str(model), "languages": ["de", "deu"]})
    assert "sources.text.filters.0.languages: the model has no label 'deu'" in mistake
    assert "use one of its: de" in mistake


def test_lists_without_entries(tmp_path: Path, graph_of: GraphOf) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    wrong = found(
        graph_of,
        {"kind": "c4_bad_words", "path": str(tmp_path / "empty.txt")},
        {"kind": "c4_bad_words", "path": str(tmp_path / "latin.txt")},
    )
    assert "filters.0.path: the file has no entry" in wrong[0]
    assert "filters.1.path: cannot read the file" in wrong[1]


def test_english_stop_words_for_another_language(graph_of: GraphOf) -> None:
    (mistake,) = found(graph_of, {"kind": "gopher_quality"}, language="ru")
    assert "sources.text.filters.0.stop_words" in mistake
    assert "min_stop_words: null" in mistake
    assert not found(graph_of, {"kind": "gopher_quality", "min_stop_words": None}, language="ru")
    assert not found(graph_of, {"kind": "gopher_quality", "stop_words": ["и"]}, language="ru")
    assert not found(graph_of, {"kind": "gopher_quality"}, language="eng_Latn")
