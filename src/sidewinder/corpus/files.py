"""Which local files a source reads, and their digests."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sidewinder.config.corpus import JsonlReader, ParquetReader, TextReader
from sidewinder.errors import DataError
from sidewinder.progress import Progress
from sidewinder.record import Artifact, file_digest

LocalReader = JsonlReader | ParquetReader | TextReader
COMPRESSED = ("", ".gz", ".zst", ".xz", ".bz2")


@dataclass(frozen=True)
class LocalFiles:
    """A folder and the files below it that a source reads, as relative paths with /, sorted."""

    folder: Path
    paths: tuple[str, ...]


def patterns(reader: LocalReader) -> list[str]:
    """Glob patterns, relative to the reader's folder, of the files that it reads."""
    if isinstance(reader, JsonlReader):
        return [f"**/*.jsonl{suffix}" for suffix in COMPRESSED]
    if isinstance(reader, ParquetReader):
        return ["**/*.parquet"]
    return [reader.glob]


def local_files(reader: LocalReader) -> LocalFiles:
    """Finds a reader's files. Raises DataError where the path does not exist or holds none."""
    path = Path(reader.path)
    if path.is_file():
        return LocalFiles(path.parent, (path.name,))
    if not path.is_dir():
        raise DataError(f"{path} does not exist", remedy="mend the path in config.yaml, or put the files there")
    found = tuple(sorted(set(matching(path, patterns(reader)))))
    if not found:
        raise DataError(
            f"{path} holds no file that matches {' or '.join(patterns(reader)[:2])}",
            remedy="mend the path or the kind of reader in config.yaml, or put the files there",
        )
    return LocalFiles(path, found)


def matching(folder: Path, globs: Iterable[str]) -> Iterator[str]:
    """Relative paths of files below a folder; hidden files (half-written ones often are) are passed over."""
    for pattern in globs:
        for name in glob.iglob(pattern, root_dir=folder, recursive=True):
            if (folder / name).is_file():
                yield Path(name).as_posix()


def file_artifacts(name: str, files: LocalFiles) -> list[Artifact]:
    """One artifact, with its digest, for every file; `name` is the source's, for the progress line."""
    with Progress(f"{name} digests", total=len(files.paths), unit="files") as progress:
        paths = [files.folder / path for path in progress.over(files.paths)]
        return [Artifact("source", str(path), file_digest(path), path.stat().st_size) for path in paths]
