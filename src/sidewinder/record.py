"""Jobs and their records: what a finished job read, wrote, was told, and ran on.

A job writes its outputs beside their final place, renames them, and leaves `record.json` last: a record that exists
is a job that finished. The catalog is built from these files alone. A job's *identity* is the digest of its kind,
configuration and input digests; a job that is asked for again with the same identity and intact outputs does nothing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from sidewinder.errors import CorruptArtifact, SidewinderError, StorageError
from sidewinder.memory import peak_bytes

RECORD = "record.json"
KEPT = ".record.json"  # Snakemake deletes declared outputs before a job starts; this copy outlives that.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
VERSIONED = ("torch", "triton", "numpy", "sentencepiece", "datatrove", "transformers", "lm-eval", "duckdb")


@dataclass(frozen=True)
class Artifact:
    """A file (or an installed package) with its digest; `role` says what it is to the job that lists it."""

    role: str
    path: str
    sha256: str
    bytes: int


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def artifact(role: str, path: Path) -> Artifact:
    """Digests one file. Raises CorruptArtifact where it is missing."""
    if not path.is_file():
        raise CorruptArtifact(f"{role}: {path} does not exist", remedy="run the study again; it makes what is missing")
    return Artifact(role, str(path), file_digest(path), path.stat().st_size)


def read_record(path: Path) -> dict[str, Any]:
    """Reads a record file. Raises CorruptArtifact where it is missing or not a record."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CorruptArtifact(
            f"cannot read the record {path}: {error}", remedy=f"delete {path.parent} and run the study again"
        ) from error


def outputs_of(record_path: Path) -> list[Artifact]:
    """The artifacts that the job of a record left, each with the digest taken when it was written."""
    return [Artifact(**entry) for entry in read_record(record_path)["outputs"]]


def check(entry: Artifact, *, deep: bool = False) -> Path:
    """Path of an artifact after comparing its size (and, `deep`, its digest) with the record's."""
    path = Path(entry.path)
    found = path.stat().st_size if path.is_file() else None
    if found != entry.bytes:
        seen = "is missing" if found is None else f"has {found:,} bytes instead of {entry.bytes:,}"
        raise CorruptArtifact(f"{entry.role}: {path} {seen}", remedy=f"delete {path.parent} and run the study again")
    if deep and file_digest(path) != entry.sha256:
        raise CorruptArtifact(
            f"{entry.role}: {path} does not have the digest of its record ({entry.sha256[:12]}…)",
            remedy=f"delete {path.parent} and run the study again",
        )
    return path


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a reader, or a crash, sees the old content or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def sync(path: Path) -> None:
    """Forces a file's content, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def exclusive(path: Path) -> Iterator[IO[str]]:
    """Holds a lock file that the kernel frees however the holder ends; waits where another process holds it.

    A child process that inherits the file holds the lock as well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            print(f"waiting: {path.parent} is being made by process {stream.read() or '?'}", file=sys.stderr)
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield stream


@dataclass
class Job:
    """One stage's work in one folder, as a context manager that ends by writing the record.

    After entering, `finished` tells whether an earlier job with this identity already left intact outputs: then do
    nothing. Otherwise add to `outputs` (with `output`) and `facts` (numbers and texts that the catalog should hold).
    """

    folder: Path
    kind: str
    name: str
    config: dict[str, Any]
    inputs: list[Artifact]
    facts: dict[str, Any] = field(default_factory=dict)
    outputs: list[Artifact] = field(default_factory=list)
    finished: bool = False

    def __post_init__(self) -> None:
        taken = sorted({(entry.role, entry.sha256) for entry in self.inputs})
        self.identity = digest([self.kind, self.config, taken])

    def output(self, role: str, path: Path) -> Artifact:
        """Registers a finished file of this job."""
        entry = artifact(role, path)
        self.outputs.append(entry)
        return entry

    def __enter__(self) -> Self:
        self._lock = exclusive(self.folder / ".lock")
        self._lock.__enter__()
        self._started = time.time()
        for part in self.folder.glob(".*.part"):  # Of processes that were killed: whoever writes here holds the lock.
            if part.is_file():  # A folder is of an import or conversion to here, which takes no lock.
                part.unlink()
        self.finished = self.restore()
        if not self.finished:
            (self.folder / KEPT).unlink(missing_ok=True)
            (self.folder / RECORD).unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and not self.finished:
                self._write_record()
            if isinstance(error, OSError):
                raise error
        except OSError as failure:
            if failure.errno in NO_ROOM:
                raise self._no_room(failure) from failure
            raise
        finally:
            self._lock.__exit__(kind, error, trace)

    def _write_record(self) -> None:
        text = json.dumps(self._record(), indent=1)
        write_atomically(self.folder / KEPT, text)
        write_atomically(self.folder / RECORD, text)

    def _no_room(self, failure: OSError) -> StorageError:
        free = shutil.disk_usage(self.folder).free
        return StorageError(
            f"{self.kind} {self.name}: cannot write to {self.folder}: {failure.strerror} ({free:,} bytes free)",
            remedy="free space, or name a folder on another disk in `results`, then run the same command again; "
            "nothing that was finished is lost",
        )

    def restore(self) -> bool:
        """True where an equal job finished before: its record is put back in place."""
        kept = self.folder / KEPT
        if not kept.is_file():
            return False
        try:
            record = read_record(kept)
            if record["identity"] != self.identity:
                return False
            for entry in record["outputs"]:
                check(Artifact(**entry))
        except (SidewinderError, KeyError, TypeError):
            return False
        if not (self.folder / RECORD).is_file():
            write_atomically(self.folder / RECORD, kept.read_text())
        return True

    def _record(self) -> dict[str, Any]:
        ended = time.time()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "kind": self.kind,
            "name": self.name,
            "identity": self.identity,
            "folder": str(self.folder),
            "config": self.config,
            "facts": self.facts,
            "inputs": [asdict(entry) for entry in self.inputs],
            "outputs": [asdict(entry) for entry in self.outputs],
            "started_at": self._started,
            "ended_at": ended,
            "wall_s": ended - self._started,
            "cpu_s": usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime,
            "peak_memory_bytes": max(peak_bytes(), 1024 * children.ru_maxrss),
            "code": code(),
            "environment": environment(),
            "command": sys.argv,
        }


@cache
def code() -> dict[str, Any]:
    """What ran: version, digest of the package's sources, and the git commit where there is one."""
    root = Path(__file__).parent
    sources = sorted(path for path in root.rglob("*.py"))
    tree = hashlib.sha256()
    for path in sources:
        tree.update(str(path.relative_to(root)).encode() + path.read_bytes())
    commit = _git("rev-parse", "HEAD")
    return {
        "version": _version(),
        "sha256": tree.hexdigest(),
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
    }


def _version() -> str | None:
    """Version of the installed package; None where the sources run without being installed."""
    try:
        return metadata.version("sidewinder-lm")
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of a git command in the source tree; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def environment() -> dict[str, Any]:
    """Where it ran: machine, Python, and the versions of the libraries that shape results."""
    versions = {}
    for name in VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": versions,
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }
