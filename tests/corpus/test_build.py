"""Building a source: what is kept, what is dropped and counted, and what it does not depend on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from tests.corpus.conftest import sentence, write_jsonl

from sidewinder.corpus.build import build_source
from sidewinder.corpus.deduplicate import deduplicate_source
from sidewinder.corpus.pieces import forget
from sidewinder.corpus.shard import build_shard
from sidewinder.corpus.shards import documents
from sidewinder.errors import CorruptArtifact, DataError
from sidewinder.graph import HELDOUT, Graph
from sidewinder.record import read_record

GraphOf = Callable[..., Graph]


def texts_of(graph: Graph, shard: str) -> list[str]:
    return [document["text"] for document in documents(graph, "text", shard)]


def all_texts(graph: Graph) -> list[str]:
    return [text for shard in graph.shards("text") for text in texts_of(graph, shard)]


def facts_of(graph: Graph) -> dict[str, Any]:
    return read_record(graph.corpus("text") / "record.json")["facts"]


def digests_of(folder: Path) -> list[str]:
    return [entry["sha256"] for entry in read_record(folder / "record.json")["outputs"]]


def many(folder: Path, files: int = 5, lines: int = 60) -> None:
    for file in range(files):
        rows = [{"id": f"{file}-{line}", "text": sentence(1000 * file + line)} for line in range(lines)]
        write_jsonl(folder / f"part-{file}.jsonl", rows)


def test_no_step_loses_a_document_unseen(tmp_path: Path, graph_of: GraphOf) -> None:
    rows: list[Any] = [{"text": sentence(number)} for number in range(50)]
    rows += [{"text": sentence(number)} for number in range(20)] + [{"text": "short"}] * 7 + [b"{"] * 3
    rows += [{"text": f"\u2581{sentence(number)}"} for number in range(4)]
    rows += [{"text": f"advertisement {sentence(number)}"} for number in range(60, 65)]
    write_jsonl(tmp_path / "data" / "a.jsonl", rows)
    reader = {"kind": "jsonl", "path": str(tmp_path / "data")}
    graph = graph_of(reader, shards=3, filters=[{"kind": "regex", "pattern": "^advertisement"}])
    build_source(graph, "text")
    facts = facts_of(graph)
    flow = [(step["block"], step["documents_in"], step["documents_out"]) for step in facts["steps"]]
    assert flow == [
        ("read", 89, 86),
        ("length", 86, 79),
        ("reserved", 79, 75),
        ("regex", 75, 70),
        ("duplicates", 70, 50),
    ]
    for before, after in zip(facts["steps"], facts["steps"][1:], strict=False):
        assert (before["documents_out"], before["bytes_out"]) == (after["documents_in"], after["bytes_in"])
    assert facts["train_documents"] + facts["heldout_documents"] == 50
    last = facts["steps"][-1]["bytes_out"]
    assert facts["train_bytes"] + facts["heldout_bytes"] == last == sum(len(text) for text in all_texts(graph))
    assert sorted(all_texts(graph)) == sorted(sentence(number) for number in range(50))
    samples = facts["steps"][3]["dropped"]["regex"]["samples"]
    assert len(samples) == 5
    assert all(sample["text"].startswith("advertisement") for sample in samples)


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(
    tmp_path: Path, graph_of: GraphOf, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [{"text": sentence(number)} for number in range(100)]
    write_jsonl(tmp_path / "data" / "a.jsonl.gz", [*good[:40], b'{"text": "cut off', *good[40:], {"body": "no text"}])
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")})
    build_source(graph, "text")
    assert sorted(all_texts(graph)) == sorted(line["text"] for line in good)
    facts = facts_of(graph)
    assert facts["steps"][0]["dropped"]["unreadable"]["documents"] == 2
    assert "a.jsonl.gz: line 41:" in facts["unreadable"][0]
    printed = capsys.readouterr().err
    assert "2 unreadable" in printed
    assert "a.jsonl.gz: line 41:" in printed


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_of_equal_texts_the_first_is_kept(tmp_path: Path, graph_of: GraphOf, shards: int) -> None:
    for name in ("b", "a", "c"):
        rows = [{"id": f"{name}{number}", "text": sentence(number)} for number in range(300)]
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows)
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")}, shards=shards)
    build_source(graph, "text")
    kept = [document["id"] for shard in graph.corpus_shards("text") for document in documents(graph, "text", shard)]
    heldout = {document["id"][1:] for document in documents(graph, "text", HELDOUT)}
    assert sorted(kept) == sorted(f"a{number}" for number in range(300) if str(number) not in heldout)
    assert len(kept) + len(heldout) == 300


def test_duplicates_stay_where_they_are_wanted(tmp_path: Path, graph_of: GraphOf) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": sentence(number % 30)} for number in range(60)])
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}, deduplicate="none")
    build_source(graph, "text")
    assert len(all_texts(graph)) == 60


def test_near_duplicates_go_where_that_is_asked(tmp_path: Path, graph_of: GraphOf) -> None:
    rows = [{"text": sentence(number, 200)} for number in range(40)]
    near = [{"text": row["text"].replace("river", "stream", 1)} for row in rows[:15]]
    write_jsonl(tmp_path / "a.jsonl", rows + near)
    reader = {"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}
    exact = graph_of(reader, shards=2)
    fuzzy = graph_of(reader, shards=2, deduplicate={"kind": "minhash"})
    build_source(exact, "text")
    build_source(fuzzy, "text")
    assert len(all_texts(exact)) == 55
    heldout = set(texts_of(exact, HELDOUT))
    apart = sum((row["text"] in heldout) != (twin["text"] in heldout) for row, twin in zip(rows, near, strict=False))
    assert len(all_texts(fuzzy)) == 40 + apart  # A near duplicate of a held-out document is not looked for.


def test_held_out_documents_depend_on_their_texts_alone(tmp_path: Path, graph_of: GraphOf) -> None:
    rows = [{"text": sentence(number)} for number in range(200)]
    write_jsonl(tmp_path / "one" / "a.jsonl", rows)
    write_jsonl(tmp_path / "two" / "x.jsonl", rows[::-1][:90])
    write_jsonl(tmp_path / "two" / "y.jsonl", rows[:110])
    one = graph_of({"kind": "jsonl", "path": str(tmp_path / "one")}, results="r1")
    two = graph_of({"kind": "jsonl", "path": str(tmp_path / "two")}, results="r2", shards=3)
    build_source(one, "text")
    build_source(two, "text")
    assert texts_of(one, HELDOUT) == texts_of(two, HELDOUT)
    assert 5 < len(texts_of(one, HELDOUT)) < 40
    training = {text for shard in two.corpus_shards("text") for text in texts_of(two, shard)}
    assert not training & set(texts_of(two, HELDOUT))
    assert len(training) + len(texts_of(two, HELDOUT)) == 200
    order = [rows.index({"text": text}) for text in texts_of(one, HELDOUT)]
    assert order != sorted(order), "the first of them must stand for all"


def test_a_change_redoes_what_depends_on_it(tmp_path: Path, graph_of: GraphOf) -> None:
    many(tmp_path / "data", files=2)
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")}, shards=2)
    build_source(graph, "text")
    shards = [graph.corpus("text") / shard / "record.json" for shard in graph.corpus_shards("text")]
    whole = graph.corpus("text") / "record.json"
    before = [path.read_text() for path in (*shards, whole)]
    build_source(graph, "text")
    assert [path.read_text() for path in (*shards, whole)] == before
    rows = [{"id": f"1-{line}", "text": sentence(7000 + line)} for line in range(60)]  # As long as what was there.
    write_jsonl(tmp_path / "data" / "part-1.jsonl", rows)
    forget()
    build_source(graph, "text")
    assert [path.read_text() == text for path, text in zip((*shards, whole), before, strict=True)] == [
        True,
        False,
        False,
    ]
    assert sentence(7000) in all_texts(graph)


def test_shards_of_other_files_are_refused(tmp_path: Path, graph_of: GraphOf) -> None:
    many(tmp_path / "data", files=2)
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")}, shards=2)
    build_shard(graph, "text", "train-00000")
    write_jsonl(tmp_path / "data" / "a-part.jsonl", [{"text": sentence(8000 + line)} for line in range(90)])
    forget()
    build_shard(graph, "text", "train-00001")
    with pytest.raises(DataError, match=r"added, removed or changed after 1 of its 2 shards .* train-00000"):
        deduplicate_source(graph, "text")
    build_source(graph, "text")
    assert len(all_texts(graph)) == 210


def test_the_same_bytes_again(tmp_path: Path, graph_of: GraphOf) -> None:
    many(tmp_path / "data")
    reader = {"kind": "jsonl", "path": str(tmp_path / "data")}
    graphs = [graph_of(reader, results=results, shards=2) for results in ("first", "second")]
    for graph in graphs:
        build_source(graph, "text")
    for folder in ("", *graphs[0].corpus_shards("text")):
        assert digests_of(graphs[0].corpus("text") / folder) == digests_of(graphs[1].corpus("text") / folder)


def test_a_missing_folder_is_named(tmp_path: Path, graph_of: GraphOf) -> None:
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match=r"nowhere.* does not exist"):
        build_source(graph, "text")


def test_an_empty_source_tells_its_counts(tmp_path: Path, graph_of: GraphOf) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"body": "wrong key"}, {"text": "short"}, b"{"])
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")})
    with pytest.raises(DataError, match="is empty: read 3 documents, unreadable 2, short 1") as caught:
        build_source(graph, "text")
    assert "a.jsonl: byte 0: no text under 'text'; found: body" in str(caught.value)


def test_nothing_held_out_is_an_error(tmp_path: Path, graph_of: GraphOf) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": sentence(1)}])
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}, heldout_share=1e-9)
    with pytest.raises(DataError, match="no held-out document"):
        build_source(graph, "text")


def test_lines_hold_id_text_and_tags(tmp_path: Path, graph_of: GraphOf) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": sentence(number), "lang": "de", "x": 1} for number in range(30)])
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "a.jsonl"), "language_key": "lang"})
    build_source(graph, "text")
    raw = (graph.corpus("text") / "train-00000" / "text.jsonl.zst").read_bytes()
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(raw).splitlines()
    assert all(set(json.loads(line)) == {"id", "text", "language"} for line in lines)


# Damage


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _alter, Path.unlink])
def test_a_damaged_text_file_is_named(tmp_path: Path, graph_of: GraphOf, damage: Callable[[Path], None]) -> None:
    many(tmp_path / "data")
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")})
    build_source(graph, "text")
    damage(graph.corpus("text") / "train-00000" / "text.jsonl.zst")
    with pytest.raises(CorruptArtifact, match=r"train-00000/text\.jsonl\.zst.*\n.*remedy: delete"):
        texts_of(graph, "train-00000")


def test_a_missing_list_of_duplicates_is_no_empty_one(tmp_path: Path, graph_of: GraphOf) -> None:
    many(tmp_path / "data")
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")})
    build_source(graph, "text")
    path = graph.corpus("text") / "duplicates" / "train-00000.npy"
    assert np.load(path).size == 0
    path.unlink()
    with pytest.raises(CorruptArtifact, match=r"duplicates/train-00000\.npy"):
        texts_of(graph, "train-00000")


def test_a_shard_whose_keys_were_cut_is_not_deduplicated(tmp_path: Path, graph_of: GraphOf) -> None:
    many(tmp_path / "data")
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "data")})
    build_shard(graph, "text", "train-00000")
    _cut(graph.corpus("text") / "train-00000" / "keys.npy")
    with pytest.raises(CorruptArtifact, match=r"keys\.npy"):
        deduplicate_source(graph, "text")
    assert not (graph.corpus("text") / "record.json").exists()
