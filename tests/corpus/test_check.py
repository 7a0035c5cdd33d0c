"""The look before any work: what is missing is named with key, value, nearest name and remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.corpus.conftest import sentence, write_jsonl

from sidewinder.corpus.check import check_sources
from sidewinder.errors import ConfigError
from sidewinder.graph import Graph

GraphOf = Callable[..., Graph]


def message(graph: Graph) -> str:
    with pytest.raises(ConfigError) as caught:
        check_sources(graph.study)
    return str(caught.value)


def test_good_sources_pass(tmp_path: Path, graph_of: GraphOf) -> None:
    write_jsonl(tmp_path / "data" / "deep" / "a.jsonl.zst", [{"text": sentence(1)}])
    check_sources(graph_of({"kind": "jsonl", "path": str(tmp_path / "data")}).study)
    check_sources(graph_of({"kind": "packages", "part": "prose", "packages": ["Jinja2", "click"]}).study)
    check_sources(graph_of({"kind": "packages", "part": "translations", "packages": ["humanize"]}).study)


def test_a_missing_folder_names_its_nearest_sibling(tmp_path: Path, graph_of: GraphOf) -> None:
    (tmp_path / "english").mkdir()
    (tmp_path / "russian").mkdir()
    text = message(graph_of({"kind": "jsonl", "path": str(tmp_path / "englsh")}))
    assert "sources.text.reader.path" in text
    assert f"nearest: {tmp_path / 'english'}" in text
    assert "remedy: mend the path" in text


def test_a_folder_without_matching_files_says_what_would_match(tmp_path: Path, graph_of: GraphOf) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("x")
    text = message(graph_of({"kind": "parquet", "path": str(tmp_path / "data")}))
    assert "holds no file that matches **/*.parquet" in text


def test_every_missing_package_is_listed_with_the_nearest(graph_of: GraphOf) -> None:
    text = message(graph_of({"kind": "packages", "part": "code", "packages": ["nunpy", "click", "no-such-thing"]}))
    assert "sources: 2 mistakes" in text
    assert "value: 'nunpy'\n    nearest: numpy" in text
    assert "pip install no-such-thing" in text


def test_packages_without_a_file_of_the_part(graph_of: GraphOf) -> None:
    text = message(graph_of({"kind": "packages", "part": "translations", "packages": ["click"]}))
    assert "no file of part 'translations'" in text
