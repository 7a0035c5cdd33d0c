"""Files on this machine and behind fsspec addresses, seen alike: which there are, what marks them, and their bytes.

A local path stays as the study writes it; everything else is a URL. Remote storage is asked through fsspec, whose
packages for it (s3fs, gcsfs …) are installed only where they are used.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from sidewinder.config.readers import FROM_ENVIRONMENT, FilesReader
from sidewinder.errors import DataError
from sidewinder.record import digest

REMOTE_BLOCK_BYTES = 8 * 2**20
# What tells a changed object from an unchanged one, by the names that storage systems give it; the best first.
STRONG = ("ETag", "etag", "checksum", "md5Hash", "content_md5", "Content-MD5", "sha256", "crc32c", "blob_id")
WEAK = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created")


@dataclass(frozen=True)
class Entry:
    """One file of a source. `name` is the same on every machine; `mark` changes when the content is replaced."""

    path: str
    name: str
    size_bytes: int
    mark: str
    seekable: bool = True


class Storage:
    """The file system that a reader's path lies on."""

    def __init__(self, config: FilesReader) -> None:
        self.path = config.path.removeprefix("file://")
        self._options = config.storage

    @property
    def remote(self) -> bool:
        return is_remote(self.path)

    @cached_property
    def fs(self) -> Any:
        """fsspec's file system. Raises DataError where it is unknown or its package is missing."""
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.path, **{key: _resolved(value) for key, value in self._options.items()})[0]
        except ImportError as error:
            raise DataError(f"cannot open {self.path}: {error}", remedy="install the package that it names") from None
        except (ValueError, TypeError) as error:
            raise DataError(
                f"cannot open {self.path}: {error}", remedy="mend the address, or the options under storage"
            ) from None

    def entry(self, path: str, name: str) -> Entry | None:
        """One file as it is now; None where there is none."""
        if not is_remote(path):
            return _local_entry(path, name) if Path(path).is_file() else None
        fs = self.fs
        try:
            fs.invalidate_cache(fs._parent(path))
            info = fs.info(path)
        except FileNotFoundError as error:
            # fsspec says the same of a web server that is not there or refuses; the cause differs.
            if path.startswith("http") and not isinstance(error.__cause__, FileNotFoundError | None):
                raise unreachable(path, error.__cause__) from error
            return None
        except Exception as error:  # Every storage library has errors of its own.
            raise unreachable(path, error) from error
        return self._entry(info, name) if info.get("type") != "directory" else None

    def walk(self, folder: str) -> Iterator[Entry]:
        """Every file below a folder, in one walk, hidden ones left out; nothing where the folder does not exist."""
        if not is_remote(folder):
            yield from _local_walk(folder, "", set())
            return
        fs = self.fs
        try:
            root = fs._strip_protocol(folder).rstrip("/")
            found = fs.find(root, detail=True)
        except FileNotFoundError:
            return
        except Exception as error:
            raise unreachable(folder, error) from error
        for path, info in found.items():
            name = path.removeprefix(root).lstrip("/")
            if name and not any(part.startswith(".") for part in name.split("/")):
                yield self._entry(info, name) if info.get("size") is not None else self._asked(path, name)

    def open(self, path: str) -> Watched:
        """A file's stored bytes, unbuffered where it is local; errors of the storage itself are DataErrors."""
        fs = self.fs if is_remote(path) else None
        try:
            if fs is None:
                return Watched(Path(path).open("rb", buffering=0), path)
            return Watched(fs.open(path, "rb", block_size=REMOTE_BLOCK_BYTES, cache_type="readahead"), path)
        except Exception as error:
            raise unreachable(path, error) from error

    def _asked(self, path: str, name: str) -> Entry:
        entry = self.entry(self.fs.unstrip_protocol(path), name)
        if entry is None:
            raise DataError(f"{path} is listed but not there", remedy="run the study again")
        return entry

    def _entry(self, info: dict[str, Any], name: str) -> Entry:
        known = next(({key: info[key]} for key in STRONG if info.get(key)), None)
        known = known or {key: _seconds(info[key]) for key in WEAK if info.get(key)}
        size = info.get("size") or 0
        # A server that serves no ranges says so, or gives no size.
        return Entry(
            path=self.fs.unstrip_protocol(info["name"]),
            name=name,
            size_bytes=size,
            mark=digest([size, known]),
            seekable=bool(size) and info.get("partial", True) is not False,
        )


class Watched(io.RawIOBase):
    """A raw stream whose own failures are DataErrors, so that they are never taken for damage in the file.

    Decompressors and parsers above it raise their own errors, which are counted; a lost network is not.
    """

    def __init__(self, stream: Any, path: str) -> None:
        self._stream, self._path = stream, path
        self._position = 0
        self.last = 0
        """Where the last block began that gave any bytes."""

    def readinto(self, buffer: Any) -> int:
        try:
            size: int = self._stream.readinto(buffer) or 0
        except Exception as error:
            raise unreachable(self._path, error) from error
        if size:
            self.last, self._position = self._position, self._position + size
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            self._position = self._stream.seek(offset, whence)
        except Exception as error:
            raise unreachable(self._path, error) from error
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def is_remote(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def unreachable(path: str, error: BaseException) -> DataError:
    """What a user is told when storage itself fails."""
    reason = str(error) or type(error).__name__
    if is_remote(path):
        return DataError(
            f"cannot reach {path}: {type(error).__name__}: {reason}",
            remedy="check the address, the network, the credentials and the reader's storage options, then run again",
        )
    return DataError(f"cannot read {path}: {reason}", remedy="make the file readable, or take it out, then run again")


def _local_entry(path: str, name: str) -> Entry:
    found = os.stat(path)
    return Entry(path, name, found.st_size, digest([found.st_size, found.st_mtime_ns]))


def _local_walk(folder: str, prefix: str, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    """Files below a folder, links followed, every folder once."""
    try:
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:
            return
        seen.add((here.st_dev, here.st_ino))
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error}", remedy="make it readable") from None
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _local_walk(entry.path, f"{prefix}{entry.name}/", seen)
        elif entry.is_file():
            status = entry.stat()
            mark = digest([status.st_size, status.st_mtime_ns])
            yield Entry(entry.path, f"{prefix}{entry.name}", status.st_size, mark)


def _resolved(value: Any) -> Any:
    """A storage option with `env:NAME` replaced. Raises DataError where the variable is not set."""
    if isinstance(value, dict):
        return {key: _resolved(item) for key, item in value.items()}
    if not (isinstance(value, str) and value.startswith(FROM_ENVIRONMENT)):
        return value
    name = value.removeprefix(FROM_ENVIRONMENT)
    if name not in os.environ:
        raise DataError(f"the environment variable {name} is not set", remedy=f"export {name}, which storage names")
    return os.environ[name]


def _seconds(moment: Any) -> Any:
    """Listings give some times as datetimes and single files as numbers, or the other way round."""
    moment = moment.timestamp() if isinstance(moment, datetime) else moment
    return round(moment, 3) if isinstance(moment, float) else moment
