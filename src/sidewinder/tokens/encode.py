"""Encodes one shard of a source into tokens.

    results/tokens/<source>-<fingerprint>/<shard>/   tokens.bin  tokens.idx  record.json

Run as `sidewinder tokens <source> <shard>`. Documents stream through in batches, each followed by the end-of-document
token, so memory does not grow with the shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sidewinder.corpus.shards import read_shard, shard_path
from sidewinder.errors import CorruptArtifact
from sidewinder.graph import Graph
from sidewinder.progress import Progress
from sidewinder.record import RECORD, Artifact, Job, check, outputs_of, read_record
from sidewinder.tokenizer import MODEL, load
from sidewinder.tokens.indexed import IndexedWriter, bin_path, idx_path, token_dtype

TOKENS = "tokens"
BATCH_DOCUMENTS = 256


def encode_shard(graph: Graph, source: str, shard: str) -> None:
    """Makes tokens.bin and tokens.idx of a shard.

    Raises CorruptArtifact where the shard or the tokenizer is damaged, or holds other documents than its record says.
    """
    folder, vocab_size = graph.tokens(source, shard), graph.study.tokenizer.vocab_size
    text = shard_path(graph.corpus(source), shard)
    config = {"source": source, "shard": shard, "vocab_size": vocab_size, "dtype": str(token_dtype(vocab_size))}
    with Job(folder, "tokens", f"{source}/{shard}", config, _inputs(graph, source, text)) as job:
        if job.finished:
            return
        counts = _encode(graph, source, shard, text, folder / TOKENS)
        _check_complete(text, counts, _promised(graph, source, shard))
        job.output("bin", bin_path(folder / TOKENS))
        job.output("idx", idx_path(folder / TOKENS))
        job.facts |= counts | {"tokens_per_byte": round(counts["tokens"] / max(1, counts["text_bytes"]), 5)}


def _encode(graph: Graph, source: str, shard: str, text: Path, prefix: Path) -> dict[str, int]:
    """Writes the token files; returns counts of documents, bytes and tokens (end-of-document tokens included)."""
    tokenizer = load(graph.tokenizer / MODEL)
    counts = {"documents": 0, "text_bytes": 0, "tokens": 0}
    total = _promised(graph, source, shard)["bytes"]
    with (
        IndexedWriter(prefix, token_dtype(tokenizer.get_piece_size())) as writer,
        Progress(f"{source}/{shard} tokens", total=total, unit="bytes") as progress,
    ):
        for texts in batches(document["text"] for document in read_shard(text)):
            encoded = tokenizer.encode(texts, add_eos=True, return_type="numpy", num_threads=1)
            writer.add_many(encoded)
            size_bytes = sum(len(one.encode()) for one in texts)
            counts["documents"] += len(texts)
            counts["text_bytes"] += size_bytes
            counts["tokens"] += sum(map(len, encoded))
            progress.update(size_bytes, tokens=f"{counts['tokens']:,}")
    return counts


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Groups documents for the tokenizer."""
    iterator = iter(texts)
    while batch := list(islice(iterator, BATCH_DOCUMENTS)):
        yield batch


def _inputs(graph: Graph, source: str, text: Path) -> list[Artifact]:
    """The shard's text and the tokenizer, after a look whether they have the sizes that their records say."""
    inputs = [entry for entry in outputs_of(graph.corpus(source) / RECORD) if entry.path == str(text)]
    inputs += outputs_of(graph.tokenizer / RECORD)
    for entry in inputs:
        check(entry)
    return inputs


def _promised(graph: Graph, source: str, shard: str) -> dict[str, Any]:
    """What the corpus record says that the shard holds."""
    shards = read_record(graph.corpus(source) / RECORD)["facts"]["shards"]
    return next(entry for entry in shards if entry["shard"] == shard)


def _check_complete(text: Path, counts: dict[str, int], promised: dict[str, Any]) -> None:
    found = counts["documents"], counts["text_bytes"]
    if found != (promised["documents"], promised["bytes"]):
        raise CorruptArtifact(
            f"{text} holds {found[0]:,} documents of {found[1]:,} bytes; "
            f"its record says {promised['documents']:,} of {promised['bytes']:,}",
            remedy=f"delete {text.parent} and run the study again",
        )
