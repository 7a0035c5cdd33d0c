"""The token files of a source: checked against the blend when it is opened, mapped into memory when they are read.

No file is opened before a token of it is asked for, and only the last few stay open, so that a source may have any
number of shards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sidewinder.errors import CorruptArtifact
from sidewinder.record import exclusive, file_digest, write_atomically
from sidewinder.tokens.indexed import IndexedReader, bin_path

OPEN_SHARDS = 128
"""Maps kept open for each source; every map takes a file descriptor."""
NAMED = 5
"""Damaged shards that a message names."""


@dataclass(frozen=True)
class Shard:
    """A tokenized file as the blend lists it."""

    prefix: Path
    tokens: int
    documents: int
    sha256_bin: str = ""


class Store:
    """Tokens of the shards of a source, by number of shard."""

    def __init__(self, shards: Sequence[Shard], dtype: np.dtype) -> None:
        self.shards, self.dtype = shards, dtype
        self._tokens = lru_cache(OPEN_SHARDS)(self._open)

    def tokens(self, shard: int) -> np.ndarray:
        """All tokens of a shard, as a view of its file.

        Raises CorruptArtifact, naming the file, where it cannot be read or is not what the blend promises.
        """
        return self._tokens(shard)

    def document_start(self, shard: int, token: int) -> int:
        """First token of the document that a token of a shard lies in."""
        return open_shard(self.shards[shard]).document_start(token)

    def _open(self, shard: int) -> np.ndarray:
        reader = open_shard(self.shards[shard])
        if reader.dtype != self.dtype:
            raise _unlike(reader.prefix, f"{reader.prefix}.idx says {reader.dtype}; the blend promises {self.dtype}")
        return reader.tokens


def open_shard(shard: Shard) -> IndexedReader:
    """The documents of a shard. Raises CorruptArtifact where they are not as many as the blend promises."""
    reader = IndexedReader(shard.prefix)
    for what, found, promised in (
        ("documents", len(reader), shard.documents),
        ("tokens", reader.n_tokens, shard.tokens),
    ):
        if found != promised:
            raise _unlike(shard.prefix, f"{reader.prefix}.idx has {found:,} {what}; the blend promises {promised:,}")
    return reader


def check_shards(blend_json: Path, shards: Sequence[Shard], token_bytes: int) -> None:
    """Raises CorruptArtifact, naming the files, where shards are missing or not those that the blend was made of.

    All sizes are compared; digests only of files that were written to after the blend was, once for each change.
    """
    blend_ns, found = blend_json.stat().st_mtime_ns, []
    younger: dict[Shard, list[int]] = {}
    for shard in shards:
        path, expected = bin_path(shard.prefix), shard.tokens * token_bytes
        try:
            seen = os.stat(path)
        except OSError as error:
            found.append((path, f"cannot read {path}: {error.strerror}"))
            continue
        if seen.st_size != expected:
            found.append((path, f"cannot read {path}: it has {seen.st_size:,} bytes; the blend promises {expected:,}"))
        elif seen.st_mtime_ns > blend_ns and shard.sha256_bin:
            younger[shard] = [seen.st_size, seen.st_mtime_ns]
    _complain(found)
    if younger:
        _check_digests(index_folder(blend_json), younger)


def index_folder(blend_json: Path) -> Path:
    """Where what is derived from a blend's shards lies; it can be deleted at any time."""
    return blend_json.parent / "index"


def _check_digests(folder: Path, younger: dict[Shard, list[int]]) -> None:
    """Digests of shards that are younger than the blend, but for those found good before and not written to since."""
    path = folder / "checked.json"
    with exclusive(folder / ".lock"):
        try:
            good: dict[str, list[int]] = json.loads(path.read_text())
        except (OSError, ValueError):
            good = {}
        new = [shard for shard, mark in younger.items() if good.get(str(shard.prefix)) != mark]
        if not new:
            return
        with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
            digests = list(pool.map(lambda shard: file_digest(bin_path(shard.prefix)), new))
        altered = [bin_path(shard.prefix) for shard, sha in zip(new, digests, strict=True) if sha != shard.sha256_bin]
        _complain([(path, f"{path} was altered: it has not the digest that the blend promises") for path in altered])
        write_atomically(path, json.dumps(good | {str(shard.prefix): younger[shard] for shard in new}))


def _complain(found: list[tuple[Path, str]]) -> None:
    """Raises CorruptArtifact for files with their faults, where there are any."""
    if found:
        lines = [fault for _, fault in found[:NAMED]]
        lines += [f"and {len(found) - NAMED:,} more files"] if len(found) > NAMED else []
        folders = ", ".join(sorted({str(path.parent) for path, _ in found[:NAMED]}))
        raise CorruptArtifact("; ".join(lines), remedy=f"delete {folders} and run the study again")


def _unlike(prefix: Path, message: str) -> CorruptArtifact:
    return CorruptArtifact(message, remedy=f"delete {prefix.parent} and run the study again")
