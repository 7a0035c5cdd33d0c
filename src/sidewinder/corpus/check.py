"""A quick look, before any work starts, whether every source of a study is there and can be read as it says."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from sidewinder.config.corpus import Source
from sidewinder.config.readers import FilesKind, PackagesReader
from sidewinder.config.study import Study
from sidewinder.corpus.filters import decontamination_mistakes
from sidewinder.corpus.filters import mistakes as mistakes_of
from sidewinder.corpus.packages import files_of, installed, normalised
from sidewinder.corpus.pieces import divide, listing
from sidewinder.corpus.storage import is_remote
from sidewinder.errors import ConfigError, DataError


def check_sources(study: Study) -> None:
    """Raises ConfigError that lists, with key, value, nearest name and remedy, all that the sources lack."""
    mistakes = [
        mistake
        for name in study.weights
        if name not in study.lookups
        for mistake in (*_mistakes(f"sources.{name}", study.sources[name]), *mistakes_of(name, study.sources[name]))
    ]
    mistakes += decontamination_mistakes(study)
    if mistakes:
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
        raise ConfigError("\n".join([f"sources: {count}", *mistakes]))


def _mistakes(key: str, source: Source) -> Iterator[str]:
    reader = source.reader
    if isinstance(reader, PackagesReader):
        found = list(_package_mistakes(f"{key}.reader", reader))
    else:
        found = list(_path_mistakes(f"{key}.reader", reader)) or list(_content_mistakes(f"{key}.reader", reader))
    yield from found or _shard_mistakes(key, source)


def _path_mistakes(key: str, reader: FilesKind) -> Iterator[str]:
    """Why the files cannot be listed."""
    try:
        listing(reader)
    except DataError as error:
        yield _mistake(f"{key}.path", error, reader.path, _nearest_path(reader.path))


def _content_mistakes(key: str, reader: FilesKind) -> Iterator[str]:
    """Why the first file that is not empty cannot be read as the reader says."""
    from sidewinder.corpus.read.columns import WrongColumn
    from sidewinder.corpus.read.peek import peek

    entries = listing(reader)
    try:
        peek(reader, next((entry for entry in entries if entry.size_bytes), entries[0]))
    except WrongColumn as error:
        yield _mistake(f"{key}.{error.key}", error, error.column, error.nearest)
    except DataError as error:
        yield _mistake(key, error, reader.path)


def _shard_mistakes(key: str, source: Source) -> Iterator[str]:
    """Why the source does not fill its shards."""
    if source.shards == 1:
        return
    try:
        divide(source.reader, source.shards)
        if isinstance(source.reader, PackagesReader):
            return
        from sidewinder.corpus.read.peek import empty_shards

        empty = len(empty_shards(source.reader, source.shards))
        if empty:
            raise DataError(
                f"{empty} of {source.shards} shards of the Parquet files would get no row group",
                remedy=f"set shards to {source.shards - empty} or fewer, or write the files with smaller row groups",
            )
    except DataError as error:
        yield _mistake(f"{key}.shards", error, source.shards)


def _mistake(key: str, error: DataError, value: object, nearest: str = "") -> str:
    what, _, remedy = str(error).partition("\n  remedy: ")
    near = f"\n    nearest: {nearest}" if nearest else ""
    return f"  {key}: {what}\n    value: {value!r}{near}\n    remedy: {remedy}"


def _package_mistakes(key: str, reader: PackagesReader) -> Iterator[str]:
    names = installed()
    missing = [package for package in reader.packages if normalised(package) not in names]
    for package in missing:
        near = get_close_matches(normalised(package), names, n=1, cutoff=0.0)
        yield (
            f"  {key}.packages: {package!r} is not installed\n"
            f"    value: {package!r}\n"
            f"    nearest: {names[near[0]] if near else '-'}\n"
            f"    remedy: pip install {package}, or take it out of the list"
        )
    if not missing and not any(True for package in reader.packages for _ in files_of(package, reader.part)):
        yield (
            f"  {key}.packages: no file of part {reader.part!r} in any of them\n    value: {reader.packages!r}\n"
            f"    remedy: name packages that ship {reader.part}"
        )


def _nearest_path(text: str) -> str:
    """The most similar name beside the first part of a local path that does not exist; empty where all of it does."""
    path = Path(text)
    if is_remote(text) or path.exists():
        return ""
    while not path.parent.exists():
        path = path.parent
    beside = sorted(str(entry) for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    near = get_close_matches(str(path), beside, n=1)
    return near[0] if near else "-"
