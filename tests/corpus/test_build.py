"""Building a source: what is kept, what is dropped and counted, and that nothing depends on how it was run."""

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.corpus.conftest import documents, sentence, write_jsonl

from sidewinder.corpus.build import build_source
from sidewinder.errors import DataError
from sidewinder.graph import Graph
from sidewinder.record import read_record

GraphOf = Callable[..., Graph]


def texts_of(graph: Graph, shard: str, source: str = "text") -> list[str]:
    return [document["text"] for document in documents(graph.corpus(source) / f"{shard}.jsonl.gz")]


def all_texts(graph: Graph) -> list[str]:
    return [text for shard in graph.shards("text") for text in texts_of(graph, shard)]


def facts_of(graph: Graph) -> dict[str, Any]:
    return read_record(graph.corpus("text") / "record.json")["facts"]


def digests_of(graph: Graph) -> list[str]:
    return [entry["sha256"] for entry in read_record(graph.corpus("text") / "record.json")["outputs"]]


def many(folder: Path, files: int = 5, lines: int = 60) -> None:
    for file in range(files):
        rows = [{"id": f"{file}-{line}", "text": sentence(1000 * file + line)} for line in range(lines)]
        write_jsonl(folder / f"part-{file}.jsonl", rows)


def test_same_files_for_one_and_two_workers_and_again(tmp_path: Path, graph_of: GraphOf) -> None:
    many(tmp_path / "data")
    reader = {"kind": "jsonl", "path": str(tmp_path / "data")}
    graphs = [graph_of(reader, results=f"results-{workers}", shards=2) for workers in (1, 2)]
    for workers, graph in enumerate(graphs, start=1):
        build_source(graph, "text", workers)
    assert digests_of(graphs[0]) == digests_of(graphs[1])
    record = graphs[0].corpus("text") / "record.json"
    before = record.read_text()
    build_source(graphs[0], "text", 2)
    assert record.read_text() == before
    assert not list(graphs[0].corpus("text").glob(".scratch*"))


def test_bad_lines_are_counted_and_named_and_the_rest_is_read(
    tmp_path: Path, graph_of: GraphOf, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [{"text": sentence(number)} for number in range(100)]
    lines: list[Any] = [*good[:40], b'{"text": "caf\xe9 ' + b"x" * 200 + b'"}', *good[40:80], b'{"text": "cut off']
    lines += [{"body": "no text here"}, b"[1, 2]", b"", {"text": 7}, b'{"text": "\\ud800 lone surrogate"}', *good[80:]]
    write_jsonl(tmp_path / "data" / "a.jsonl.gz", lines)
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")})
    build_source(graph, "text", 1)
    assert sorted(all_texts(graph)) == sorted(line["text"] for line in good)
    facts = facts_of(graph)
    assert facts["bad_documents"] == 6
    assert [entry.split(":")[:2] for entry in facts["first_bad"]][:2] == [["a.jsonl.gz", "41"], ["a.jsonl.gz", "82"]]
    printed = capsys.readouterr().err
    assert "6 unreadable lines" in printed
    assert "a.jsonl.gz:41" in printed


def test_counts_add_up(tmp_path: Path, graph_of: GraphOf) -> None:
    rows: list[Any] = [{"text": sentence(number)} for number in range(50)]
    rows += [{"text": sentence(number)} for number in range(20)] + [{"text": "short"}] * 7 + [b"{"] * 3
    rows += [{"text": f"\u2581{sentence(number)}"} for number in range(4)]
    write_jsonl(tmp_path / "data" / "a.jsonl", rows)
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")})
    build_source(graph, "text", 1)
    facts = facts_of(graph)
    flow = [(step["step"], step["documents_in"], step["documents_out"]) for step in facts["steps"]]
    assert flow == [
        ("read", 84, 81),
        ("length", 81, 74),
        ("reserved character", 74, 70),
        ("deduplication", 70, 50),
    ]
    assert facts["train_documents"] + facts["heldout_documents"] == 50
    last = facts["steps"][-1]["bytes_out"]
    assert facts["train_bytes"] + facts["heldout_bytes"] == last == sum(len(text) for text in all_texts(graph))


def test_of_equal_texts_the_first_is_kept(tmp_path: Path, graph_of: GraphOf) -> None:
    for name in ("b", "a", "c"):
        rows = [{"id": f"{name}{number}", "text": sentence(number)} for number in range(30)]
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows)
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")})
    build_source(graph, "text", 2)
    kept = [document["id"] for shard in graph.shards("text") for document in _shard(graph, shard)]
    assert sorted(kept) == sorted(f"a{number}" for number in range(30))


def test_duplicates_stay_where_they_are_wanted(tmp_path: Path, graph_of: GraphOf) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": sentence(number % 30)} for number in range(60)])
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}, deduplicate="none")
    build_source(graph, "text", 1)
    assert len(all_texts(graph)) == 60


def test_held_out_documents_do_not_depend_on_order_or_shards(tmp_path: Path, graph_of: GraphOf) -> None:
    rows = [{"text": sentence(number)} for number in range(200)]
    write_jsonl(tmp_path / "one" / "a.jsonl", rows)
    write_jsonl(tmp_path / "two" / "x.jsonl", rows[::-1][:90])
    write_jsonl(
        tmp_path / "two" / "y.jsonl", [*rows[:110], *({"text": sentence(number)} for number in range(900, 990))]
    )
    one = graph_of({"kind": "jsonl", "path": str(tmp_path / "one")}, results="r1")
    two = graph_of({"kind": "jsonl", "path": str(tmp_path / "two")}, results="r2", shards=3)
    build_source(one, "text", 1)
    build_source(two, "text", 1)
    assert set(texts_of(one, "heldout-00000")) <= set(texts_of(two, "heldout-00000"))
    training = {text for shard in two.shards("text")[:-1] for text in texts_of(two, shard)}
    assert not training & set(texts_of(two, "heldout-00000"))
    assert 5 < len(texts_of(one, "heldout-00000")) < 40
    assert all(texts_of(two, shard) for shard in two.shards("text"))


def test_documents_are_shuffled(tmp_path: Path, graph_of: GraphOf) -> None:
    rows = [{"text": sentence(number)} for number in range(200)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")})
    build_source(graph, "text", 1)
    order = [rows.index({"text": text}) for text in texts_of(graph, "train-00000")]
    assert sum(after == before + 1 for before, after in itertools.pairwise(order)) < 10


def test_parquet_with_own_columns_and_bad_values(tmp_path: Path, graph_of: GraphOf) -> None:
    good = [sentence(number).encode() for number in range(40)]
    column = pa.array([*good, b"\xff\xfe" * 80, None], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), len(column), column.buffers(), column.null_count)
    table = pa.table({"body": broken, "key": [f"k{number}" for number in range(42)]})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "a.parquet")
    graph = graph_of({"kind": "parquet", "path": str(tmp_path / "data"), "text_key": "body", "id_key": "key"})
    build_source(graph, "text", 1)
    assert sorted(all_texts(graph)) == sorted(text.decode() for text in good)
    assert facts_of(graph)["bad_documents"] == 2
    assert {document["id"] for document in _shard(graph, "train-00000")} <= {f"k{number}" for number in range(40)}


def test_text_files_one_document_each(tmp_path: Path, graph_of: GraphOf) -> None:
    for number in range(40):
        path = tmp_path / "data" / f"{number % 3}" / f"{number}.rst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sentence(number))
    (tmp_path / "data" / "latin1.rst").write_bytes(b"caf\xe9" * 100)
    graph = graph_of({"kind": "text", "path": str(tmp_path / "data"), "glob": "**/*.rst"})
    build_source(graph, "text", 2)
    assert sorted(all_texts(graph)) == sorted(sentence(number) for number in range(40))
    assert facts_of(graph)["first_bad"][0].startswith("latin1.rst:0: ")


def test_a_changed_file_is_read_again(tmp_path: Path, graph_of: GraphOf) -> None:
    many(tmp_path / "data")
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")})
    build_source(graph, "text", 1)
    first = read_record(graph.corpus("text") / "record.json")
    write_jsonl(tmp_path / "data" / "part-0.jsonl", [{"text": sentence(7777 + line)} for line in range(60)])
    build_source(graph, "text", 1)
    second = read_record(graph.corpus("text") / "record.json")
    assert first["identity"] != second["identity"]
    assert sentence(7777) in all_texts(graph)


@pytest.mark.parametrize(
    ("name", "content", "reader", "says"),
    [
        ("a.jsonl.gz", b"not gzip at all\n", {"kind": "jsonl"}, "a.jsonl.gz: Not a gzipped file"),
        (
            "b.jsonl.gz",
            gzip.compress(b'{"text": "x"}\n' * 1000)[:-20],
            {"kind": "jsonl"},
            "b.jsonl.gz: Compressed file",
        ),
        ("c.parquet", b"not parquet", {"kind": "parquet"}, "c.parquet: Parquet"),
        ("d.jsonl.zst", b"not zstandard\n", {"kind": "jsonl"}, "d.jsonl.zst"),
    ],
)
def test_a_file_of_another_format_is_named(
    tmp_path: Path, graph_of: GraphOf, name: str, content: bytes, reader: dict[str, str], says: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)
    graph = graph_of(reader | {"path": str(tmp_path / "data")})
    with pytest.raises(DataError, match=says) as caught:
        build_source(graph, "text", 1)
    assert "remedy" in str(caught.value)
    assert not (graph.corpus("text") / "record.json").exists()


def test_a_wrong_parquet_column_is_named_with_those_there(tmp_path: Path, graph_of: GraphOf) -> None:
    pq.write_table(pa.table({"content": ["a"]}), tmp_path / "a.parquet")
    graph = graph_of({"kind": "parquet", "path": str(tmp_path / "a.parquet")})
    with pytest.raises(DataError, match="no column 'text'; columns: content"):
        build_source(graph, "text", 1)


def test_a_missing_folder_is_named(tmp_path: Path, graph_of: GraphOf) -> None:
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match=r"source text: .*nowhere does not exist"):
        build_source(graph, "text", 1)


def test_an_empty_source_tells_its_counts(tmp_path: Path, graph_of: GraphOf) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"body": "wrong key"}, {"text": "short"}, b"{"])
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")})
    with pytest.raises(
        DataError, match="is empty: read 1 documents, unreadable 2, shorter than 100 characters 1"
    ) as caught:
        build_source(graph, "text", 1)
    assert "a.jsonl:1: no text under 'text'; found: body" in str(caught.value)


def test_nothing_held_out_is_an_error(tmp_path: Path, graph_of: GraphOf) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": sentence(1)}])
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}, heldout_share=1e-9)
    with pytest.raises(DataError, match="no held-out document"):
        build_source(graph, "text", 1)


def test_an_error_in_a_worker_process_reaches_the_user(tmp_path: Path, graph_of: GraphOf) -> None:
    many(tmp_path / "data")
    (tmp_path / "data" / "bad.jsonl.gz").write_bytes(b"not gzip\n")
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")})
    with pytest.raises(DataError, match=r"bad\.jsonl\.gz"):
        build_source(graph, "text", 2)


def test_an_interrupted_build_goes_on_and_gives_the_same_files(tmp_path: Path, graph_of: GraphOf) -> None:
    many(tmp_path / "data")
    reader = {"kind": "jsonl", "path": str(tmp_path / "data")}
    whole, stopped = graph_of(reader, results="whole"), graph_of(reader, results="stopped")
    build_source(whole, "text", 1)
    folder = stopped.corpus("text")
    folder.mkdir(parents=True)
    (folder / "train-00000.jsonl.gz").mkdir()  # Renaming onto a folder fails: the build dies after its first pass.
    with pytest.raises(OSError, match="train-00000"):
        build_source(stopped, "text", 1)
    (folder / "train-00000.jsonl.gz").rmdir()
    (scratch,) = folder.glob(".scratch-*")
    mark = scratch / "read" / "completions" / "00000"
    written = mark.stat().st_mtime_ns
    (scratch / "read" / "completions" / "00003").unlink()
    document = next((scratch / "documents" / "train-00000").glob("00003.jsonl"))
    document.write_bytes(document.read_bytes()[:50])
    seen = mark.stat().st_mtime_ns
    build_source(stopped, "text", 2)
    assert seen == written
    assert digests_of(stopped) == digests_of(whole)
    assert facts_of(stopped) == facts_of(whole)


def _shard(graph: Graph, shard: str) -> list[dict[str, str]]:
    return documents(graph.corpus("text") / f"{shard}.jsonl.gz")


def test_shards_are_json_lines_with_id_and_text(tmp_path: Path, graph_of: GraphOf) -> None:
    many(tmp_path / "data")
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")})
    build_source(graph, "text", 1)
    raw = (graph.corpus("text") / "train-00000.jsonl.gz").read_bytes()
    assert raw[4:8] == bytes(4), "the gzip header must hold no time"
    assert all(set(json.loads(line)) == {"id", "text"} for line in gzip.decompress(raw).splitlines())
