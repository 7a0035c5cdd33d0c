"""The blend's job: what it tells of every stage, and the indexes that it makes for them."""

from __future__ import annotations

import pytest

from sidewinder.config.load import parse_study
from sidewinder.graph import Graph
from sidewinder.record import read_record
from sidewinder.tokens.blend import write_blend
from sidewinder.tokens.encode import encode_shard
from sidewinder.tokens.loader import BlendLoader


def test_lengths_repeats_and_indexes(prepared: Graph, capsys: pytest.CaptureFixture) -> None:
    values = prepared.study.model_dump()
    values["training"] |= {"packing": "documents", "reset_documents": True, "documents": {"minimum_tokens": 40}}
    graph = Graph(parse_study(values | {"repeat_at_most": 0.001}))
    for source in graph.source_configs:
        for shard in graph.shards(source):
            encode_shard(graph, source, shard)
    write_blend(graph)
    told = capsys.readouterr().err
    assert "blend: pretrain-64: training goes through english long " in told
    assert "(repeat_at_most is 0.001)" in told
    facts = read_record(graph.blend / "record.json")["facts"]
    assert {name: sum(lengths.values()) for name, lengths in facts["lengths"].items()} == facts["tokens"]
    (stage,) = {name for name in facts["stages"] if "pretrain" in name}
    assert min(map(int, facts["stages"][stage]["lengths"])) >= 32, "documents of 40 tokens lie in the bin from 32 on"
    made = {path: path.stat().st_mtime_ns for path in (graph.blend / "index").glob("*.*")}
    training = graph.stages[0].training
    BlendLoader(graph.blend / "blend.json", 64, 1, 10, training.packing, training.documents)
    assert {path: path.stat().st_mtime_ns for path in (graph.blend / "index").glob("*.*")} == made
