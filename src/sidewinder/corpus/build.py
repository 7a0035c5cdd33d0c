"""A whole source in this process: every shard, then what needs them all. The workflow runs these as single jobs."""

from __future__ import annotations

from sidewinder.corpus.deduplicate import deduplicate_source
from sidewinder.corpus.shard import build_shard
from sidewinder.graph import Graph


def build_source(graph: Graph, source: str) -> None:
    """Makes all corpus folders of a source. Raises DataError where it cannot be read, or nothing is left of it."""
    for shard in graph.corpus_shards(source):
        build_shard(graph, source, shard)
    deduplicate_source(graph, source)
