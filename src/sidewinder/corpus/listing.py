"""Which files a source reads: one walk of its path, kept for as long as the process lives.

A path may be a folder, a glob or one file. Of a data set folder, the files of the wanted split are taken: those that
`state.json` names where `save_to_disk` wrote it, else those whose names speak of the split, as on the hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from sidewinder.config.readers import (
    FilesKind,
    HuggingFaceReader,
    JsonlReader,
    PackagesReader,
    ParquetReader,
    Reader,
    TextReader,
    WarcReader,
)
from sidewinder.corpus.packages import package_files
from sidewinder.corpus.storage import Entry, Storage
from sidewinder.errors import DataError

COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
JSON_LINES = tuple(f"**/*{kind}{suffix}" for kind in (".jsonl", ".ndjson") for suffix in ("", *COMPRESSED))
DATA_SET = (*JSON_LINES, "**/*.parquet", "**/*.arrow")
WEB_ARCHIVES = ("**/*.warc", "**/*.warc.gz")
SPLITS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "dev", "val"},
    "test": {"test", "testing", "eval", "evaluation"},
}
SHARDED = re.compile(r"(?:^|/)(\w+)-\d{5}-of-\d{5}[^/]*$")
MAGIC = re.compile(r"[*?\[]")

_listings: dict[str, tuple[Entry, ...]] = {}


def listing(reader: Reader) -> tuple[Entry, ...]:
    """The files of a source, sorted by name; the same objects at every call in a process.

    Raises DataError where the path does not exist, cannot be reached, or holds no file of the kind.
    """
    key = reader.model_dump_json()
    if key not in _listings:
        _listings[key] = tuple(sorted(_found(reader), key=lambda entry: entry.name))
    return _listings[key]


def forget() -> None:
    """Drops what is known of all sources: the next look walks again."""
    _listings.clear()


def patterns(reader: FilesKind) -> tuple[str, ...]:
    """Globs, relative to a folder, of the files that a reader reads there."""
    if isinstance(reader, JsonlReader):
        return JSON_LINES
    if isinstance(reader, ParquetReader):
        return ("**/*.parquet",)
    if isinstance(reader, TextReader):
        return (reader.glob, *(reader.glob + suffix for suffix in COMPRESSED))
    if isinstance(reader, WarcReader):
        return WEB_ARCHIVES if reader.text == "html" else (*WEB_ARCHIVES, "**/*.wet", "**/*.wet.gz")
    return DATA_SET


def _found(reader: Reader) -> list[Entry]:
    if isinstance(reader, PackagesReader):
        files = package_files(reader.packages, reader.part)
        return [Entry(file.name, file.name, file.bytes, file.sha256, seekable=False) for file in files]
    storage = Storage(reader)
    single = storage.entry(storage.path, storage.path.rstrip("/").rpartition("/")[2])
    if single:
        return [single]
    folder, pattern = _split_glob(storage.path)
    if isinstance(reader, HuggingFaceReader) and not pattern:
        found = _data_set(storage, reader, folder)
    else:
        wanted = (pattern,) if pattern else patterns(reader)
        found = list(_matching(storage.walk(folder), wanted))
    if not found:
        raise _nothing(reader, storage, folder, pattern)
    return found


def _matching(entries: Iterator[Entry], globs: tuple[str, ...]) -> Iterator[Entry]:
    from fsspec.utils import glob_translate

    wanted = re.compile("|".join(f"(?:{glob_translate(pattern)})" for pattern in globs))
    return (entry for entry in entries if wanted.match(entry.name))


def _split_glob(path: str) -> tuple[str, str]:
    """(folder without wildcards, pattern below it); no pattern where the path is no glob."""
    scheme, mark, rest = path.rpartition("://")
    magic = re.search(r"\*", rest) if scheme.startswith("http") else MAGIC.search(rest)
    if magic is None or (not mark and Path(path).exists()):
        return path.rstrip("/") or path, ""
    folder, _, _ = rest[: magic.start()].rpartition("/")
    pattern = rest[len(folder) :].lstrip("/")
    if not mark:
        folder = folder or ("/" if path.startswith("/") else ".")
    return scheme + mark + folder, pattern


def _data_set(storage: Storage, reader: HuggingFaceReader, folder: str) -> list[Entry]:
    """Files of one split of a data set folder."""
    entries = {entry.name: entry for entry in storage.walk(folder)}
    for prefix in ("", f"{reader.split}/"):
        if f"{prefix}state.json" in entries:
            return _saved(storage, entries, prefix)
    files = list(_matching(iter(entries.values()), DATA_SET))
    of_split = {entry.name: _splits(entry.name) for entry in files}
    if reader.split == "train" and not any(of_split.values()):
        return files
    own = re.compile(rf"(^|[-. /]){re.escape(reader.split)}([-. /]|$)")  # A split may have any name.
    wanted = _name(reader.split)
    found = [entry for entry in files if wanted in of_split[entry.name] or own.search(entry.name)]
    if files and not found:
        known = sorted({split for splits in of_split.values() for split in splits})
        raise DataError(
            f"{folder} has no split {reader.split!r}; it has {', '.join(known) or 'train alone'}",
            remedy="mend the reader's split",
        )
    return found


def _saved(storage: Storage, entries: dict[str, Entry], prefix: str) -> list[Entry]:
    """Arrow files of a data set that `save_to_disk` wrote, in its order of names."""
    with storage.open(entries[f"{prefix}state.json"].path) as stream:
        state = json.loads(stream.read())
    names = [f"{prefix}{file['filename']}" for file in state.get("_data_files") or []]
    missing = [name for name in names if name not in entries]
    if missing or state.get("_indices_data_files"):
        what = f"lacks {', '.join(missing[:5])}" if missing else "is a selection of rows that was not written out"
        raise DataError(f"the data set at {storage.path} {what}", remedy="save it again with save_to_disk")
    return [entries[name] for name in names]


def _splits(name: str) -> set[str]:
    """Splits that a file's path speaks of.

    `data/train_sft-00000-of-00005.parquet`, the hub's own form, is of the split train_sft alone; elsewhere the words
    of the path count, as in `valid/part-3.jsonl`.
    """
    known = {word for words in SPLITS.values() for word in words}
    sharded = SHARDED.search(name)
    if sharded and known.intersection(sharded[1].split("_")):
        return {_name(sharded[1])}
    return {_name(word) for word in re.split(r"[-._ /0-9]+", name)[:-1] if word in known}


def _name(split: str) -> str:
    return next((name for name, words in SPLITS.items() if split in words), split)


def _nothing(reader: FilesKind, storage: Storage, folder: str, pattern: str) -> DataError:
    """Why a path gave no file."""
    if not storage.remote and not Path(folder).exists():
        return DataError(f"{folder} does not exist", remedy="mend the path, or put the files there")
    wanted = (pattern,) if pattern else patterns(reader)
    lacks = "does not exist, or holds" if storage.remote else "holds"
    return DataError(
        f"{folder} {lacks} no file that matches {' or '.join(wanted[:2])}",
        remedy="mend the path or the kind of reader, or put the files there",
    )
