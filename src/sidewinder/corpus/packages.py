"""Which files of installed Python packages a source reads: what wheels brought, the same on every machine.

Only files that RECORD lists with a hash count: they are the wheel's bytes, so equal versions mean equal
text. Left out are tests, vendored copies of other packages, files written by a program, and files that say how or
where a wheel was built.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

from sidewinder.errors import DataError
from sidewinder.record import Artifact

SUFFIXES = {"prose": {".py", ".rst", ".md", ".txt", ""}, "code": {".py"}, "translations": {".po"}}
# distutils: NumPy's wheels have it for Python 3.11 alone, and the text should not depend on the interpreter.
SKIPPED_FOLDERS = {"test", "tests", "_tests", "_vendor", "vendor", "_vendored", "externals", "extern", "distutils"}
SKIPPED_NAMES = re.compile(
    r"test_.*|.*_test\.py|conftest\.py"
    r"|__config__\.py|_distributor_init.*\.py|_?version\.py|_build_config\.py"
    r"|(licen[cs]e|copying|notice|authors|requirements|cmakelists|contributors).*\.(txt|md|rst)",
    re.IGNORECASE,
)
ENGLISH = re.compile(r"en([_@-].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class PackageFile:
    """One file of an installed distribution."""

    package: str  # name==version
    path: str  # as in RECORD, with /
    location: str  # where it lies on this machine; never part of any output
    sha256: str
    bytes: int

    @property
    def name(self) -> str:
        """What documents and errors call it, the same on every machine."""
        return f"{self.package}/{self.path}"

    def as_dict(self) -> dict[str, str | int]:
        return asdict(self)


@cache
def installed() -> dict[str, str]:
    """Normalised name → name of every installed distribution."""
    names = {dist.metadata["Name"] for dist in metadata.distributions()}
    return {normalised(name): name for name in sorted(name for name in names if name)}


def normalised(name: str) -> str:
    """The form in which package names compare equal (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def package_files(packages: Iterable[str], part: str) -> list[PackageFile]:
    """Files that `part` (prose, code, translations) reads, sorted by package and path.

    Raises DataError where a package is not installed.
    """
    found: dict[str, PackageFile] = {}
    for package in packages:
        for entry in files_of(package, part):
            found[entry.name] = entry
    return [found[name] for name in sorted(found)]


def files_of(package: str, part: str) -> Iterator[PackageFile]:
    """Files of one installed distribution, in RECORD's order."""
    try:
        dist = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise DataError(
            f"package {package!r} is not installed", remedy=f"pip install {package}, or take it out of the source"
        ) from None
    name = f"{dist.metadata['Name']}=={dist.version}"
    for entry in dist.files or []:
        path = PurePosixPath(entry)
        if entry.hash is None or entry.hash.mode != "sha256" or not _wanted(path, part):
            continue
        yield PackageFile(
            package=name,
            path=str(path),
            location=str(entry.locate()),
            sha256=_hexadecimal(entry.hash.value),
            bytes=entry.size or 0,
        )


def read_verified(file: PackageFile) -> bytes:
    """A file's content. Raises DataError where it is gone or not what the wheel brought."""
    try:
        content = Path(file.location).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file.name}: {error}", remedy=_reinstall(file)) from None
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(f"{file.location} was changed after installation", remedy=_reinstall(file))
    return content


def package_artifacts(files: Iterable[PackageFile]) -> list[Artifact]:
    """One artifact a package: `name==version` with the digest over the hashes of the files used."""
    hashes: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for file in files:
        hashes.setdefault(file.package, []).append(f"{file.sha256} {file.path}")
        sizes[file.package] = sizes.get(file.package, 0) + file.bytes
    return [
        Artifact("package", package, hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(), sizes[package])
        for package, lines in sorted(hashes.items())
    ]


def _wanted(path: PurePosixPath, part: str) -> bool:
    if path.parts[0] in ("..", "/") or path.suffix.lower() not in SUFFIXES[part]:
        return False
    if path.parts[0].endswith(".dist-info"):
        return part == "prose" and path.name == "METADATA"
    if path.suffix == "" or SKIPPED_FOLDERS.intersection(path.parts) or SKIPPED_NAMES.fullmatch(path.name):
        return False
    return part != "translations" or not ENGLISH.fullmatch(language_of(path))


def language_of(path: PurePosixPath) -> str:
    """Language of a catalogue from its place: `…/<language>/LC_MESSAGES/x.po`, else the file's name."""
    if path.parent.name == "LC_MESSAGES":
        return path.parent.parent.name
    return path.stem


def _hexadecimal(value: str) -> str:
    """RECORD's digest (URL-safe base64 without padding) in hexadecimal."""
    return binascii.hexlify(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))).decode()


def _reinstall(file: PackageFile) -> str:
    return f"pip install --force-reinstall --no-deps {file.package}"
