"""The index of a source: those of its shards, made by several processes at once, and kept beside the blend.

Files are named by digests of the shards' tokens and of what is asked of them, so an index is made once, found again by
every process and every stage that asks the same, and never taken for that of other tokens.

    …/blend-77aa88bb/index/   <digest>.index  for a shard    <source>-<digest>.json  for a source, once all are there
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sidewinder.errors import CorruptArtifact, SidewinderError
from sidewinder.record import digest, exclusive, write_atomically
from sidewinder.tokens.lengths import BINS
from sidewinder.tokens.shard_index import VERSION, Layout, ShardIndex, read_counts, write_index
from sidewinder.tokens.store import OPEN_SHARDS, Shard

DOCUMENTS_A_PROCESS = 200_000
"""Fewer are indexed sooner than another process starts."""


class Index:
    """The index of a source; `shard(i)` that of a shard, of which only the last few stay open."""

    def __init__(self, files: list[Path], manifest: dict[str, Any]) -> None:
        self.sequences = np.array([shard["sequences"] for shard in manifest["shards"]], dtype=np.int64)
        self.tokens = np.array([shard["tokens"] for shard in manifest["shards"]], dtype=np.int64)
        self.continued: int = sum(shard["continued"] for shard in manifest["shards"])
        self.lengths = np.array(manifest["lengths"], dtype=np.int64).reshape(2, BINS)
        self.shard = lru_cache(OPEN_SHARDS)(lambda place: ShardIndex(files[place]))


def index_of(folder: Path, source: str, shards: Sequence[Shard], layout: Layout) -> Index:
    """The index of a source, made where it is missing; other processes that ask for it wait.

    Raises CorruptArtifact, naming the shard, where one is damaged or the blend has no digest for it.
    """
    files = [folder / f"{_mark(layout, shard)}.index" for shard in shards]
    path = folder / f"{source}-{_mark(layout, *shards)}.json"
    manifest = _read(path, files)
    if manifest is None:
        with exclusive(folder / ".lock"):
            manifest = _read(path, files)
            if manifest is None:
                for left_over in folder.glob(".*.part"):  # Of processes that were killed.
                    left_over.unlink(missing_ok=True)
                manifest = _make(source, dict(zip(files, shards, strict=True)), layout)
                write_atomically(path, json.dumps(manifest))
    return Index(files, manifest)


def _mark(layout: Layout, *shards: Shard) -> str:
    for shard in shards:
        if not shard.sha256_bin:
            raise CorruptArtifact(
                f"blend.json has no digest for {shard.prefix}",
                remedy="delete the blend's folder and run the study again",
            )
    known = [[shard.sha256_bin, shard.tokens, shard.documents] for shard in shards]
    return digest([VERSION, asdict(layout), known])[:16]


def _read(path: Path, files: list[Path]) -> dict[str, Any] | None:
    """The manifest of a source's index; None where it, or a file of the index, is missing or truncated."""
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        whole = [shard["bytes"] for shard in manifest["shards"]] == [os.stat(file).st_size for file in files]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if whole else None


def _make(source: str, shards: dict[Path, Shard], layout: Layout) -> dict[str, Any]:
    """Makes what is missing, in several processes where there is much of it; returns the manifest.

    What they leave undone, for whatever reason, is done or told of here.
    """
    missing = {path: shard for path, shard in shards.items() if read_counts(path) is None}
    documents = sum(shard.documents for shard in missing.values())
    processes = min(len(missing), len(os.sched_getaffinity(0)), -(-documents // DOCUMENTS_A_PROCESS))
    if processes > 1:
        what = f"{len(missing):,} shards of {source}, {documents:,} documents"
        print(f"index: {what}, in {processes} processes", file=sys.stderr)
        _in_parallel(missing, layout, processes)
    for path, shard in missing.items():
        if read_counts(path) is None:
            write_index(shard, layout, path)
    lengths, listed = np.zeros((2, BINS), dtype=np.int64), []
    for path in shards:
        counts = read_counts(path)
        assert counts
        lengths += counts.lengths
        told = ("sequences", "documents", "tokens", "continued")
        listed.append({key: getattr(counts, key) for key in told} | {"file": path.name, "bytes": counts.size_bytes})
    return {"source": source, "layout": asdict(layout), "shards": listed, "lengths": lengths.tolist()}


def _in_parallel(missing: dict[Path, Shard], layout: Layout, processes: int) -> None:
    """Runs `work` in so many processes, each with its part of the shards."""
    command = [sys.executable, "-c", "from sidewinder.tokens.index import work; work()"]
    package = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, *filter(None, [os.getenv("PYTHONPATH")])])}
    tasks = [(str(path), asdict(shard) | {"prefix": str(shard.prefix)}) for path, shard in missing.items()]
    running = []
    for number in range(processes):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment)
        assert process.stdin
        process.stdin.write(json.dumps([os.getpid(), asdict(layout), tasks[number::processes]]))
        process.stdin.close()
        running.append(process)
    for process in running:
        process.wait()


def work() -> None:
    """One of several processes: indexes the shards named on stdin, until done or left alone by the one that asked."""
    parent, layout, tasks = json.load(sys.stdin)
    for path, shard in tasks:
        if os.getppid() != parent:
            return
        try:
            write_index(Shard(**shard | {"prefix": Path(shard["prefix"])}), Layout(**layout), Path(path))
        except SidewinderError:
            continue  # The parent meets it again, and tells of it.
