"""The look before any work: what is missing is named with key, value, nearest name and remedy."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.corpus.conftest import sentence, write_jsonl

from sidewinder.config.load import parse_study
from sidewinder.corpus import pieces
from sidewinder.corpus.check import check_sources
from sidewinder.errors import ConfigError
from sidewinder.graph import Graph

GraphOf = Callable[..., Graph]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    pieces.forget()
    yield
    pieces.forget()


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


def test_wrong_columns_are_named_with_the_nearest(tmp_path: Path, graph_of: GraphOf) -> None:
    write_jsonl(tmp_path / "a.jsonl.gz", [b"", {"content": "x", "id": 1}, {"content": "y", "url": "z"}])
    text = message(graph_of({"kind": "jsonl", "path": str(tmp_path), "text_key": "contents"}))
    assert "sources.text.reader.text_key: column 'contents' of" in text
    assert "columns: content, id, url\n    value: 'contents'\n    nearest: content\n    remedy: set text_key" in text
    pq.write_table(pa.table({"text": ["a"], "lang": ["de"]}), tmp_path / "a.parquet")
    text = message(graph_of({"kind": "parquet", "path": str(tmp_path), "language_key": "language"}))
    assert "sources.text.reader.language_key: column 'language' of" in text
    assert "nearest: lang\n" in text


def test_damaged_first_files_pass_because_damage_is_counted(tmp_path: Path, graph_of: GraphOf) -> None:
    for name, kind in (("a.jsonl.gz", "jsonl"), ("a.jsonl.zst", "jsonl"), ("a.parquet", "parquet")):
        (tmp_path / name).write_bytes(b"neither this nor that\n")
        check_sources(graph_of({"kind": kind, "path": str(tmp_path / name)}).study)


def test_too_many_shards_are_named_with_the_most_there_can_be(tmp_path: Path, graph_of: GraphOf) -> None:
    write_jsonl(tmp_path / "a.jsonl.gz", [{"text": "x" * 10_000}])
    text = message(graph_of({"kind": "jsonl", "path": str(tmp_path)}, shards=2))
    assert "sources.text.shards" in text
    assert "set the source's shards to 1 or fewer" in text
    pq.write_table(pa.table({"text": [str(number) * 50 for number in range(900)]}), tmp_path / "a.parquet")
    text = message(graph_of({"kind": "parquet", "path": str(tmp_path)}, shards=4))
    assert "3 of 4 shards of the Parquet files would get no row group" in text


def test_web_pages_without_the_extractor_are_refused_before_any_work(
    tmp_path: Path, graph_of: GraphOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidewinder.corpus.read.warc import extractor

    extractor.cache_clear()
    monkeypatch.setitem(sys.modules, "resiliparse.extract.html2text", None)
    (tmp_path / "a.warc.gz").write_bytes(b"x")
    assert "pip install resiliparse" in message(graph_of({"kind": "warc", "path": str(tmp_path)}))
    check_sources(graph_of({"kind": "warc", "path": str(tmp_path), "text": "plain"}).study)
    extractor.cache_clear()


def test_addresses_that_cannot_be_opened_or_reached(graph_of: GraphOf) -> None:
    text = message(graph_of({"kind": "jsonl", "path": "nosuch://bucket/data"}))
    assert "sources.text.reader.path: cannot open nosuch://bucket/data" in text
    text = message(graph_of({"kind": "jsonl", "path": "http://127.0.0.1:1/a.jsonl"}))
    assert "cannot reach http://127.0.0.1:1/a.jsonl" in text
    assert "remedy: check the address, the network, the credentials" in text


def test_all_that_the_sources_lack_is_listed_at_once(tmp_path: Path, graph_of: GraphOf) -> None:
    values = graph_of({"kind": "jsonl", "path": str(tmp_path / "nowhere")}).study.model_dump(mode="json")
    values["sources"]["other"] = {"reader": {"kind": "huggingface", "path": str(tmp_path / "neither")}}
    values["sources"]["third"] = {"reader": {"kind": "packages", "part": "code", "packages": ["nunpy"]}}
    values["blend"] = {"text": 0.5, "other": 0.25, "third": 0.25}
    with pytest.raises(ConfigError) as caught:
        check_sources(parse_study(values))
    assert "sources: 3 mistakes" in str(caught.value)
    assert "sources.other.reader.path" in str(caught.value)
