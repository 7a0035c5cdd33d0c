"""What one shard of a source reads: whole files, or byte ranges of files that can be read from the middle.

A range owns what *begins* in it: a line of a plain JSONL or text-lines file, a row group of Parquet, a record batch of
Arrow. So ranges that adjoin give every document exactly once, and a file is cut without being opened. Compressed files,
web archives and texts of one document are read whole.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from sidewinder.config.readers import FilesReader, PackagesReader, Reader, TextReader, WarcReader
from sidewinder.corpus.listing import COMPRESSED, forget, listing
from sidewinder.corpus.packages import package_artifacts, package_files
from sidewinder.corpus.storage import Entry, Storage, is_remote
from sidewinder.errors import DataError
from sidewinder.progress import Progress
from sidewinder.record import Artifact, digest

__all__ = ["Piece", "artifacts", "cut_digest", "divide", "forget", "listing"]

LEAST_PIECE_BYTES = 1024  # Shorter ranges would mostly be empty.
UNITS_A_SHARD = 8  # A large file is cut this fine, so that shards differ by a sixteenth at most.
HASH_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Piece:
    """A file, or what begins at bytes [start, end) of it; `end` None is the file's end."""

    path: str
    start: int = 0
    end: int | None = None
    size_bytes: int = 0
    name: str = ""
    """The file's name below the source's path, the same on every machine."""
    mark: str = ""
    """The file's mark when it was listed; a reader refuses a file that has another."""

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.end is None


_divided: dict[tuple[str, int], tuple[tuple[Entry, ...], list[list[Piece]]]] = {}


def divide(reader: Reader, shards: int) -> list[list[Piece]]:
    """Pieces of every shard: contiguous in the order of names, balanced by bytes, the same in every process.

    The lists are kept and must not be changed. Raises DataError where the source has too few pieces, with the
    largest number of shards that it can fill.
    """
    entries, key = listing(reader), (reader.model_dump_json(), shards)
    if key not in _divided or _divided[key][0] is not entries:
        units = _units(reader, entries, shards)
        if len(units) < shards:
            where = reader.path if isinstance(reader, FilesReader) else ", ".join(reader.packages)
            raise DataError(
                f"{where} can be cut into {len(units):,} pieces, and shards is {shards:,}",
                remedy=f"set the source's shards to {len(units):,} or fewer",
            )
        _divided[key] = entries, [_merged(units[begin:end]) for begin, end in pairwise(_bounds(units, shards))]
    return _divided[key][1]


def cut_digest(pieces: list[Piece]) -> str:
    """Digest of where pieces begin and end, by which shards show that they were cut from the same files."""
    return digest([(piece.name or piece.path, piece.start, piece.end, piece.size_bytes) for piece in pieces])


def cuttable(reader: Reader, entry: Entry) -> bool:
    """Whether reading can start in the middle of a file."""
    if isinstance(reader, PackagesReader | WarcReader) or not entry.seekable:
        return False
    if isinstance(reader, TextReader) and reader.documents == "files":
        return False
    if entry.name.endswith(".arrow") and is_remote(entry.path):
        return False
    return not entry.name.endswith(COMPRESSED)


def artifacts(source: str, reader: Reader, pieces: list[Piece]) -> list[Artifact]:
    """What stands for the pieces in a record: one artifact a piece, or a package.

    A local file, or the part of it that a piece reads, has its SHA-256; a remote one the digest of what its storage
    says of it (size, and checksum or time of change). `source` names the progress line. Raises DataError where a
    file is gone or cannot be reached.
    """
    if isinstance(reader, PackagesReader):
        wanted = {piece.path for piece in pieces}
        return package_artifacts(file for file in package_files(reader.packages, reader.part) if file.name in wanted)
    storage = Storage(reader)
    with Progress(f"{source} digests", total=len(pieces), unit="files") as progress:
        return [_artifact(storage, piece) for piece in progress.over(pieces)]


def _artifact(storage: Storage, piece: Piece) -> Artifact:
    entry = storage.entry(piece.path, piece.name)
    if entry is None:
        raise DataError(f"{piece.path} does not exist any more", remedy="put it back, or run the study again")
    path = piece.path if piece.whole else f"{piece.path}#bytes={piece.start}-{piece.end or ''}"
    if is_remote(piece.path):
        return Artifact("source", path, digest([entry.mark, piece.start, piece.end]), piece.size_bytes)
    size = entry.size_bytes if piece.whole else piece.size_bytes
    return Artifact("source", path, _digest(storage, piece), size)


def _digest(storage: Storage, piece: Piece) -> str:
    """SHA-256 of the bytes that decide what a local piece holds."""
    from sidewinder.corpus.read import spans

    value = hashlib.sha256()
    with storage.open(piece.path) as stream:
        if piece.whole:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        for begin, end in spans(stream, piece):
            stream.seek(begin)
            while begin < end and (block := stream.read(min(HASH_BLOCK_BYTES, end - begin))):
                value.update(block)
                begin += len(block)
    return value.hexdigest()


def _units(reader: Reader, entries: tuple[Entry, ...], shards: int) -> list[Piece]:
    """The smallest parts that shards are made of."""
    total = sum(entry.size_bytes for entry in entries)
    grain = max(LEAST_PIECE_BYTES, total // (UNITS_A_SHARD * shards))
    return [unit for entry in entries for unit in _parts(entry, grain if cuttable(reader, entry) else None)]


def _parts(entry: Entry, grain: int | None) -> Iterator[Piece]:
    count = max(1, -(-entry.size_bytes // grain)) if grain else 1
    if count == 1:
        yield Piece(entry.path, 0, None, entry.size_bytes, entry.name, entry.mark)
        return
    for begin, end in pairwise(entry.size_bytes * part // count for part in range(count + 1)):
        last = end == entry.size_bytes
        yield Piece(entry.path, begin, None if last else end, end - begin, entry.name, entry.mark)


def _bounds(units: list[Piece], shards: int) -> list[int]:
    """Where in the list of units each shard begins: nearest to its share of the bytes, and no shard empty."""
    sums = list(accumulate((max(1, unit.size_bytes) for unit in units), initial=0))
    bounds = [0]
    for shard in range(1, shards):
        target = sums[-1] * shard / shards
        after = bisect_left(sums, target)
        nearest = after - 1 if after and target - sums[after - 1] < sums[after] - target else after
        bounds.append(min(max(nearest, bounds[-1] + 1), len(units) - (shards - shard)))
    return [*bounds, len(units)]


def _merged(units: list[Piece]) -> list[Piece]:
    """Adjoining parts of a file as one piece; a whole file as such."""
    pieces: list[Piece] = []
    for unit in units:
        last = pieces[-1] if pieces else None
        if last and last.path == unit.path and last.end == unit.start:
            size = last.size_bytes + unit.size_bytes
            pieces[-1] = Piece(unit.path, last.start, unit.end, size, unit.name, unit.mark)
        else:
            pieces.append(unit)
    return pieces
