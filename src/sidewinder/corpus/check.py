"""A quick look, before any work starts, whether every source of a study is there."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from sidewinder.config.corpus import PackagesReader, Source
from sidewinder.config.study import LOOKUP, Study
from sidewinder.corpus.files import local_files
from sidewinder.corpus.packages import files_of, installed, normalised
from sidewinder.errors import ConfigError, DataError


def check_sources(study: Study) -> None:
    """Raises ConfigError that lists, with key, value, nearest name and remedy, all that the sources lack."""
    mistakes = [
        mistake
        for name in study.weights
        if name != LOOKUP
        for mistake in _mistakes(f"sources.{name}.reader", study.sources[name])
    ]
    if mistakes:
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
        raise ConfigError("\n".join([f"sources: {count}", *mistakes]))


def _mistakes(key: str, source: Source) -> Iterator[str]:
    reader = source.reader
    if isinstance(reader, PackagesReader):
        yield from _package_mistakes(key, reader)
        return
    try:
        local_files(reader)
    except DataError as error:
        what, _, remedy = str(error).partition("\n  remedy: ")
        near = "" if Path(reader.path).exists() else f"\n    nearest: {_nearest_path(Path(reader.path))}"
        yield f"  {key}.path: {what}\n    value: {reader.path!r}{near}\n    remedy: {remedy}"


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


def _nearest_path(path: Path) -> str:
    """The most similar name beside the first part of a path that does not exist."""
    while not path.parent.exists():
        path = path.parent
    beside = sorted(str(entry) for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    near = get_close_matches(str(path), [*beside], n=1, cutoff=0.0)
    return near[0] if near else "-"
