"""The datatrove pipeline of a source: read → drop short → scatter by hash; then gather, deduplicate, write shards.

A document's hash decides everything that must not depend on files, tasks or workers: whether it is held out, which
shard it goes to, and its place there. Equal texts have equal hashes, so they meet in the same shard, where all but the
first are dropped: deduplication, shuffling and sharding are one sort of one shard at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import orjson
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

import sidewinder.corpus.quiet  # noqa: F401
from sidewinder.corpus.shards import shard_path, write_shard

HELDOUT = "heldout-00000"
HASH_BYTES = 16
SPACE = "\u2581"


def text_hash(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def is_heldout(key: bytes, share: float) -> bool:
    """Held-out documents are those whose hash begins below the share; no other document's presence matters."""
    return int.from_bytes(key[:8]) < share * 2**64


def shard_of(key: bytes, shards: list[str]) -> str:
    """Training shard of a hash: by its second half, which is independent of the held-out decision."""
    return shards[int.from_bytes(key[8:]) % len(shards)]


class DropShort(BaseFilter):
    """Drops documents of fewer characters than a minimum."""

    name, reason = "short documents", "short"

    def __init__(self, minimum_characters: int) -> None:
        super().__init__()
        self.minimum_characters = minimum_characters

    def filter(self, doc: Document) -> bool:
        return len(doc.text) >= self.minimum_characters or drop(self, doc)


class DropReserved(BaseFilter):
    """Drops documents with the character ▁, by which SentencePiece writes a space: decoding would not give it back."""

    name, reason = "reserved character", "reserved"

    def filter(self, doc: Document) -> bool:
        return SPACE not in doc.text or drop(self, doc)


def drop(step: DropShort | DropReserved, document: Document) -> bool:
    """Counts a dropped document under the step's reason; always False, a filter's answer."""
    step.stat_update(f"{step.reason}_documents")
    step.stat_update(f"{step.reason}_bytes", value=len(document.text.encode()))
    return False


class Scatter(PipelineStep):
    """Writes each document to the file of its shard: `folder/<shard>/<rank>.jsonl`, with its hash and origin.

    The files get their names when the task has seen all its documents, so a task that was killed leaves nothing that
    counts.
    """

    name, type = "scatter", "writer"

    def __init__(self, folder: str, shards: list[str], heldout_share: float) -> None:
        super().__init__()
        self.folder, self.shards, self.heldout_share = folder, shards, heldout_share

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with ExitStack() as stack:
            streams: dict[str, IO[bytes]] = {}
            for document in data:
                key = text_hash(document.text)
                shard = HELDOUT if is_heldout(key, self.heldout_share) else shard_of(key, self.shards)
                if shard not in streams:
                    streams[shard] = stack.enter_context(self._part(shard, rank).open("wb"))
                file, index = document.metadata["file"], document.metadata["index"]
                line = orjson.dumps([key.hex(), file, index, document.id, document.text])
                streams[shard].write(line + b"\n")
                yield document
        for shard in streams:
            self._part(shard, rank).replace(Path(self.folder, shard, f"{rank:05d}.jsonl"))

    def _part(self, shard: str, rank: int) -> Path:
        """Where a task's file is written until it is complete: a place of this process alone."""
        folder = Path(self.folder, shard)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f".{rank:05d}.{os.getpid()}.part"


class Gather(PipelineStep):
    """Task `rank` writes shard `rank`: all its documents, sorted by hash, equal texts once."""

    name, type = "gather", "writer"

    def __init__(self, folder: str, output: str, shards: list[str], deduplicate: bool) -> None:
        super().__init__()
        self.folder, self.output, self.shards, self.deduplicate = folder, output, shards, deduplicate

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        shard = self.shards[rank]
        entries = sorted(self._entries(Path(self.folder, shard)))
        write_shard(shard_path(Path(self.output), shard), self._lines(entries, shard))
        yield from ()

    def _entries(self, folder: Path) -> Iterator[tuple[str, str, str, int, bytes]]:
        """(place, hash, file, index, line): sorting puts equal texts together, the first in order first."""
        for path in sorted(folder.glob("*.jsonl")):
            with path.open("rb") as stream:
                for line in stream:
                    key, file, index, _, _ = orjson.loads(line)
                    yield key[HASH_BYTES:], key, file, index, line

    def _lines(self, entries: Iterable[tuple[str, str, str, int, bytes]], shard: str) -> Iterator[bytes]:
        """Lines of a shard, counting what is kept, by shard, and what was there before."""
        previous = ""
        for _, key, _, _, line in entries:
            _, _, _, identifier, text = orjson.loads(line)
            size_bytes = len(text.encode())
            if self.deduplicate and key == previous:
                self.stat_update("duplicate_documents")
                self.stat_update("duplicate_bytes", value=size_bytes)
                continue
            previous = key
            self.stat_update(f"{shard}_documents")
            self.stat_update(f"{shard}_bytes", value=size_bytes)
            self.stat_update(f"{shard}_characters", value=len(text))
            yield orjson.dumps({"id": identifier, "text": text})
