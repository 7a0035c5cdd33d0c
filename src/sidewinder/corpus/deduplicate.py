"""What needs all shards of a source: duplicates, the held-out documents, the totals.

    results/corpus/<source>-<fingerprint>/   duplicates/train-00000.npy …  heldout-00000.jsonl.zst
                                             summary.json  record.json

Run as `sidewinder deduplicate --into FOLDER`. It reads hashes, not texts, so that it stays small beside the source.
Of equal documents the first in order of shards and places stays; the others are listed by place, and left out
wherever the shards are read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from sidewinder.config.filters import Deduplicate, MinHash
from sidewinder.corpus.duplicates import Dropped, exact
from sidewinder.corpus.facts import check_not_empty, source_facts
from sidewinder.corpus.minhash import near
from sidewinder.corpus.pieces import cut_digest, divide
from sidewinder.corpus.rows import save
from sidewinder.corpus.shard import text_hash
from sidewinder.corpus.shards import (
    DUPLICATES,
    HELDOUT_TEXT,
    KEYS,
    SIGNATURES,
    SUMMARY,
    TextWriter,
    duplicates_path,
    read_lines,
    text_path,
)
from sidewinder.errors import DataError
from sidewinder.graph import HELDOUT, Graph
from sidewinder.memory import available_bytes
from sidewinder.record import RECORD, Job, check, outputs_of, read_record, write_atomically

BUCKET_BYTES = 32_000_000  # Of held-out text that is sorted at once.
MEMORY_SHARE, LEAST_MEMORY_BYTES = 0.5, 1_000_000_000  # Of what there is, to compare hashes in.


def deduplicate_source(graph: Graph, source: str) -> None:
    """Makes the record of a whole source. Raises DataError where nothing is left for training, or nothing held out."""
    folder, shards = graph.corpus(source), graph.corpus_shards(source)
    parts = [outputs_of(folder / shard / RECORD) for shard in shards]
    inputs = [entry for part in parts for entry in part if entry.role != "text"]
    with Job(folder, "deduplicate", source, graph.source_configs[source], inputs) as job:
        _sweep(folder)
        if job.finished:
            return
        for entry in inputs:
            check(entry)
        facts = [read_record(folder / shard / RECORD)["facts"] for shard in shards]
        _check_cut(graph, source, facts)
        generated = source in graph.study.lookups
        wanted: Deduplicate = "none" if generated else graph.study.sources[source].deduplicate
        left_out = _left_out(graph, source, wanted)
        heldout = gather([folder / shard / HELDOUT_TEXT for shard in shards], text_path(graph, source, HELDOUT), wanted)
        for shard in shards:
            job.output("duplicates", duplicates_path(graph, source, shard))
        job.output("heldout", text_path(graph, source, HELDOUT))
        job.facts |= source_facts(facts, left_out, heldout)
        check_not_empty(source, job.facts)
        texts = [next(entry.sha256 for entry in part if entry.role == "text") for part in parts]
        job.output("summary", _write_summary(folder, shards, texts, facts, left_out, heldout["kept"]))


def _sweep(folder: Path) -> None:
    """Removes what a process that was killed left: files half written, and folders of scratch files."""
    for part in folder.glob(f"{DUPLICATES}/.*.part"):
        part.unlink()
    for scratch in [*folder.glob(".exact-*"), *folder.glob(f"{DUPLICATES}/.twins-*")]:
        shutil.rmtree(scratch)


def _check_cut(graph: Graph, source: str, facts: list[dict[str, Any]]) -> None:
    """Raises DataError where shards were cut from other files than there are now: text would be lost or doubled."""
    if source in graph.study.lookups:
        return
    config, shards = graph.study.sources[source], graph.corpus_shards(source)
    now = [cut_digest(pieces) for pieces in divide(config.reader, config.shards)]
    other = [shard for shard, one, cut in zip(shards, facts, now, strict=True) if one["cut"] != cut]
    if other:
        raise DataError(
            f"source {source}: files were added, removed or changed after {len(other):,} of its {len(now):,} shards "
            f"were read, the first of them {other[0]}",
            remedy=f"delete their folders in {graph.corpus(source)} and run the study again",
        )


def _write_summary(
    folder: Path,
    shards: list[str],
    texts: list[str],
    facts: list[dict[str, Any]],
    left_out: list[tuple[int, int]],
    heldout: tuple[int, int],
) -> Path:
    """What each shard holds; its digest stands for all text of the source."""
    rows: dict[str, Any] = {
        shard: {
            "documents": one["train_documents"] - lost[0],
            "bytes": one["train_bytes"] - lost[1],
            "text_sha256": sha256,
        }
        for shard, one, lost, sha256 in zip(shards, facts, left_out, texts, strict=True)
    }
    rows[HELDOUT] = {"documents": heldout[0], "bytes": heldout[1]}
    write_atomically(folder / SUMMARY, json.dumps(rows, indent=0))
    return folder / SUMMARY


def _left_out(graph: Graph, source: str, wanted: Deduplicate) -> list[tuple[int, int]]:
    """Writes, for every shard, the places of documents that are left out; returns how many, and their bytes."""
    folders = [graph.corpus(source) / shard for shard in graph.corpus_shards(source)]
    places = [duplicates_path(graph, source, folder.name) for folder in folders]
    places[0].parent.mkdir(exist_ok=True)
    if wanted == "none":
        for path in places:
            save(path, np.empty(0, dtype=np.int64))
        return [(0, 0)] * len(places)
    keys = [folder / KEYS for folder in folders]
    memory = max(LEAST_MEMORY_BYTES, int(MEMORY_SHARE * (available_bytes() or 0)))
    if not isinstance(wanted, MinHash):
        return _counted(exact(keys, places, memory_bytes=memory))
    with TemporaryDirectory(dir=graph.corpus(source), prefix=".exact-") as scratch:
        equal = [Path(scratch) / path.name for path in places]
        first = _counted(exact(keys, equal, memory_bytes=memory))
        signatures = [folder / SIGNATURES for folder in folders]
        then = _counted(near(signatures, keys, equal, places, wanted, memory_bytes=memory))
    return [(one[0] + other[0], one[1] + other[1]) for one, other in zip(first, then, strict=True)]


def _counted(dropped: list[Dropped]) -> list[tuple[int, int]]:
    return [(one.documents, one.bytes) for one in dropped]


def gather(files: list[Path], target: Path, wanted: Deduplicate) -> dict[str, tuple[int, int]]:
    """Writes the held-out documents of all shards to one file, by hash, equal ones once unless they are `wanted`.

    Their order, like their choice, depends on the texts alone. Returns counts of those `kept` and `dropped`.
    """
    scratch = target.parent / ".heldout"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    buckets = 1 + sum(path.stat().st_size for path in files) // BUCKET_BYTES
    with ExitStack() as stack:
        parts = [scratch / f"{bucket:05d}" for bucket in range(buckets)]
        streams = [stack.enter_context(path.open("wb")) for path in parts]
        for path in files:
            for line in read_lines(path):
                key = text_hash(orjson.loads(line)["text"].encode())
                place = key[8:] + key[:8]  # The first half is small for all of them: they are held out for it.
                streams[int.from_bytes(place[:4]) * buckets >> 32].write(place.hex().encode() + line)
    counts = {"kept": (0, 0), "dropped": (0, 0)}
    with TextWriter(target) as writer:
        for line, again in _sorted(parts):
            fate = "dropped" if again and wanted != "none" else "kept"
            counts[fate] = (counts[fate][0] + 1, counts[fate][1] + len(orjson.loads(line)["text"].encode()))
            if fate == "kept":
                writer.write(line)
    shutil.rmtree(scratch)
    return counts


def _sorted(parts: list[Path]) -> Iterator[tuple[bytes, bool]]:
    """Lines in order of their hashes, each with whether one of the same hash came before."""
    before = b""
    for path in parts:
        for entry in sorted(path.read_bytes().split(b"\n")[:-1], key=lambda entry: entry[:32]):
            yield entry[32:], entry[:32] == before
            before = entry[:32]
