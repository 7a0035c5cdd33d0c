"""Reads and cleans one shard of a source.

    results/corpus/<source>-<fingerprint>/train-00000/   text.jsonl.zst  heldout.jsonl.zst  keys.npy  record.json

Run as `sidewinder corpus --into FOLDER`. One process goes through the shard's part of the source once, in order:
read → filters → write. A document's hash decides whether it is held out, so that this depends on its text alone.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import xxhash
from datatrove.data import Document

from sidewinder.config.corpus import Source
from sidewinder.config.filters import MinHash
from sidewinder.corpus.facts import first_step
from sidewinder.corpus.filters import Block, blocks, files
from sidewinder.corpus.lookup import build_lookup
from sidewinder.corpus.minhash import Signatures
from sidewinder.corpus.pieces import artifacts, cut_digest, divide
from sidewinder.corpus.read import REASONS, Reader, reader
from sidewinder.corpus.rows import KEY, Rows
from sidewinder.corpus.shards import HELDOUT_TEXT, KEYS, SIGNATURES, TEXT, TextWriter
from sidewinder.graph import Graph
from sidewinder.progress import Progress
from sidewinder.record import Job, artifact

TAGS = ("language", "licence")


def build_shard(graph: Graph, source: str, shard: str) -> None:
    """Makes the text files of a shard. Raises DataError where its part of the source cannot be read at all."""
    if source in graph.study.lookups:
        build_lookup(graph, source, shard)
        return
    config = graph.study.sources[source]
    pieces = divide(config.reader, config.shards)[int(shard.removeprefix("train-"))]
    folder, settings = graph.corpus(source) / shard, {**graph.source_configs[source], "shard": shard}
    inputs = artifacts(source, config.reader, pieces) + [artifact("list", path) for path in files(config, graph.study)]
    with Job(folder, "corpus", f"{source}/{shard}", settings, inputs) as job:
        if job.finished:
            return
        read, chain = reader(config, pieces), blocks(config, graph.study)
        documents: Iterable[Document] = read.run()
        for block in chain:
            documents = block.run(documents)
        with (
            _signatures(folder, config) as sign,
            Progress(f"{source}/{shard} text", total=None, unit="bytes") as progress,
        ):
            written = write(documents, folder, graph.study.heldout_share, sign, progress)
        for role, name in (("text", TEXT), ("heldout", HELDOUT_TEXT), ("keys", KEYS), ("signatures", SIGNATURES)):
            if role != "signatures" or isinstance(config.deduplicate, MinHash):
                job.output(role, folder / name)
        job.facts |= shard_facts(read, chain, written) | {"cut": cut_digest(pieces)}
        _report_unreadable(f"{source}/{shard}", job.facts)


@contextmanager
def _signatures(folder: Path, config: Source) -> Iterator[Callable[[str], None]]:
    """What to call with every text for training; does nothing where near duplicates are not looked for."""
    if not isinstance(config.deduplicate, MinHash):
        yield lambda text: None
        return
    with Signatures(folder / SIGNATURES, config.deduplicate) as signatures:
        yield signatures.add


@dataclass
class Written:
    """Documents and bytes of text that went to each file."""

    documents: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)


def write(
    documents: Iterable[Document], folder: Path, heldout_share: float, sign: Callable[[str], None], progress: Progress
) -> Written:
    """Writes documents to the files of a shard: training and held-out text, and the keys of the former."""
    written = Written()
    with (
        TextWriter(folder / TEXT) as text,
        TextWriter(folder / HELDOUT_TEXT) as heldout,
        Rows(folder / KEYS, KEY) as keys,
    ):
        for document in documents:
            content = document.text.encode()
            key = text_hash(content)
            if held := is_heldout(key, heldout_share):
                heldout.write(_line(document))
            else:
                text.write(_line(document))
                sign(document.text)
                keys.append((key, len(content)))
            part = "heldout" if held else "train"
            written.documents[part] += 1
            written.bytes[part] += len(content)
            progress.update(len(content))
            del document, content  # The next one may be large.
    return written


def _line(document: Document) -> bytes:
    about = {key: document.metadata[key] for key in TAGS if key in document.metadata}
    return orjson.dumps({"id": document.id, "text": document.text, **about})


def text_hash(text: bytes) -> bytes:
    """16 bytes that stand for a text."""
    return xxhash.xxh3_128_digest(text)


def is_heldout(key: bytes, share: float) -> bool:
    """Held-out documents are those whose hash begins below the share; no other document's presence matters."""
    return int.from_bytes(key[:8]) < share * 2**64


def shard_facts(read: Reader, chain: list[Block], written: Written) -> dict[str, Any]:
    """What reading and each block did, and what was written."""
    seen = {label: int(stat.total) for label, stat in read.stats.stats.items()}
    lost = {
        "unreadable" if reason == "bad" else reason: (
            seen.get(f"{reason}_documents", 0),
            seen.get(f"{reason}_bytes", 0),
        )
        for reason in REASONS
    }
    first = first_step("read", (seen.get("read_documents", 0), seen.get("read_bytes", 0)), lost)
    facts: dict[str, Any] = {"steps": [first.as_dict(), *(block.counts.as_dict() for block in chain)]}
    for part in ("train", "heldout"):
        facts |= {f"{part}_documents": written.documents[part], f"{part}_bytes": written.bytes[part]}
    return facts | {"unreadable": [str(place) for place in read.named]}


def _report_unreadable(name: str, facts: dict[str, Any]) -> None:
    if places := facts["unreadable"]:
        dropped = facts["steps"][0]["dropped"]["unreadable"]
        print(f"{name}: {dropped['documents']:,} unreadable documents or files skipped; the first:", file=sys.stderr)
        print("\n".join(f"  {place}" for place in places), file=sys.stderr)
