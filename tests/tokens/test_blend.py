"""The blend's job: what it tells of every stage, and the indexes that it makes for them."""

from __future__ import annotations

import pytest

from sidewinder.config.load import parse_study
from sidewinder.corpus.build import build_source
from sidewinder.errors import DataError
from sidewinder.graph import Graph
from sidewinder.record import read_record
from sidewinder.tokens.blend import write_blend
from sidewinder.tokens.encode import encode_shard
from sidewinder.tokens.indexed import IndexedReader
from sidewinder.tokens.loader import BlendLoader
from sidewinder.tokens.manifest import read_blend


def test_lengths_repeats_and_indexes(prepared: Graph) -> None:
    values = prepared.study.model_dump()
    values["training"] |= {"packing": "documents", "reset_documents": True, "documents": {"minimum_tokens": 40}}
    graph = Graph(parse_study(values))
    for source in graph.source_configs:
        for shard in graph.shards(source):
            encode_shard(graph, source, shard)
    little = Graph(parse_study(values | {"repeat_at_most": 0.001}))
    with pytest.raises(DataError, match=r"pretrain-64: the text runs out .* english long .* repeat_at_most is 0.001"):
        write_blend(little, little.blend)
    assert not (little.blend / "record.json").exists()
    write_blend(graph, graph.blend)
    assert graph.blend == little.blend, "another limit is no other blend"
    facts = read_record(graph.blend / "record.json")["facts"]
    assert {name: sum(lengths.values()) for name, lengths in facts["lengths"].items()} == facts["tokens"]
    (stage,) = {name for name in facts["stages"] if "pretrain" in name}
    assert min(map(int, facts["stages"][stage]["lengths"])) >= 32, "documents of 40 tokens lie in the bin from 32 on"
    made = {path: path.stat().st_mtime_ns for path in (graph.blend / "index").glob("*.*")}
    training = graph.stages[0].training
    BlendLoader(graph.blend / "blend.json", 64, 1, 10, training.packing, training.documents)
    assert {path: path.stat().st_mtime_ns for path in (graph.blend / "index").glob("*.*")} == made


def test_an_extension_with_look_ups_of_its_own_reads_another_blend(prepared: Graph) -> None:
    values = prepared.study.model_dump()
    extension = {"context_tokens": 128, "models": [next(iter(values["models"]))], "budget_tokens": 5_000}
    extension |= {"batch_sequences": 4, "learning_rate": 1e-3, "minimum_learning_rate": 1e-4}
    own = {"share": 0.25, "documents": 200, "entries": [2, 30], "grow_share": 0.5}
    usual = Graph(parse_study(values | {"extensions": [extension]}))
    graph = Graph(parse_study(values | {"extensions": [extension | {"lookup": own}]}))
    pretrain, longer = graph.stages
    assert pretrain.folder == usual.stages[0].folder, "what an extension reads does not concern pretraining"
    assert longer.folder.parent == usual.stages[1].folder.parent
    assert longer.folder != usual.stages[1].folder
    build_source(graph, "lookup_128")
    for source in graph.source_configs:
        for shard in graph.shards(source):
            encode_shard(graph, source, shard)
    for folder in graph.blends:
        write_blend(graph, folder)
    blend = read_blend(longer.blend / "blend.json")["sources"]
    assert "lookup" not in blend
    assert blend["lookup_128"]["weight"] == 0.25
    assert sum(entry["weight"] for entry in blend.values()) == pytest.approx(1)
    assert "lookup_128" not in read_blend(pretrain.blend / "blend.json")["sources"]
    assert list(read_record(longer.blend / "record.json")["facts"]["stages"]) == [f"{longer.model_name} extend-128"]
    # The documents of a curriculum lie in their order, not shuffled as others are.
    lengths = IndexedReader(blend["lookup_128"]["shards"][0]["prefix"]).sizes
    assert lengths[:40].max() < lengths[-40:].max() / 3
