"""Data sets of evaluation tasks in a local folder, for machines without a network.

    FOLDER/manifest.json                    what was fetched: revision, files, digests
    FOLDER/cais/mmlu/anatomy/test.parquet   <data set of the hub>/<configuration or default>/<split>.parquet
    FOLDER/ruler/…json                      the two question files of RULER

While `reading` is active, lm-eval's tasks get their data from there. Without a folder they ask the hub (hub_data.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.mendable import Mendable
from sidewinder.record import file_digest

MANIFEST = "manifest.json"
DEFAULT = "default"
LARGE_BYTES = 64 * 2**20
ZIPPED = re.compile(r"zip://[^:]*::https://huggingface\.co/datasets/(?P<path>.+)/resolve/[^/]+/(?P<name>[^/]+)\.zip")


class MissingData(Mendable):
    """A task's data set is not at hand."""


@dataclass
class LocalData:
    """A folder of data sets. `used` fills with what was read: revision, or digest where none is known. Emptying it, a
    caller sees what was read since then.
    """

    folder: Path
    used: dict[str, str] = field(default_factory=dict)
    _kept: dict[Path, Any] = field(default_factory=dict)
    _states: dict[str, str] = field(default_factory=dict)

    def load(self, path: str, name: str | None = None, split: str | None = None) -> Any:
        """A data set of the hub: all splits, or one. Raises MissingData that names folder and remedy."""
        place = self.folder / path / (name or DEFAULT)
        if place not in self._kept:
            self._kept[place] = self._read(place, f"data set {path}" + (f" ({name})" if name else ""))
        found = self._kept[place]
        self._use(place.relative_to(self.folder).as_posix())
        if split is None:
            return found.copy()
        if split not in found:
            raise self.missing(place / f"{split}.parquet", f"split {split} of data set {path}")
        return found[split]

    def load_dataset(
        self, original: Callable[..., Any], path: str, name: str | None = None, *args: Any, **settings: Any
    ) -> Any:
        """What stands in the folder for what `original` would get from the hub."""
        files = settings.get("data_files")
        remote = [ZIPPED.fullmatch(file) for file in files.values()] if isinstance(files, dict) else []
        if remote and all(remote):
            assert remote[0]
            return self.load(remote[0]["path"], remote[0]["name"], settings.get("split"))
        if files is not None or Path(path).exists():  # Local files, which a task names itself.
            return original(path, name, *args, **settings)
        return self.load(path, name, settings.get("split"))

    def _read(self, place: Path, what: str) -> Any:
        from datasets import DatasetDict

        files = sorted(place.glob("*.parquet"))
        if not files:
            raise self.missing(place, what)
        self._use(place.relative_to(self.folder).as_posix())  # Before it is read, so that damage is told as such.
        try:
            return DatasetDict({file.stem: _dataset(file) for file in files})
        except Exception as error:  # pyarrow and datasets raise errors of many kinds for a damaged file.
            raise Mendable(
                f"cannot read {place}: {type(error).__name__}: {error}", remedy="fetch the data set again"
            ) from error

    def json(self, name: str) -> Any:
        """The content of a JSON file below the folder."""
        path = self.folder / name
        if not path.is_file():
            raise self.missing(path, f"file {name}")
        self._use(name)
        return json.loads(path.read_text())

    def missing(self, place: Path, what: str) -> MissingData:
        return MissingData(
            f"{what} is not at {place}",
            remedy=f"where there is a network: sidewinder datasets fetch --into {self.folder}",
        )

    def unchanged(self, used: dict[str, str]) -> bool:
        """Whether data sets are what they were when they were used."""
        try:
            return all(self._state_once(key) == state for key, state in used.items())
        except EvaluationError:  # It will be told when the data set is read.
            return False

    def state(self, key: str) -> str:
        """Revision, or digest where none is known. Raises Mendable where the files are not those of the manifest."""
        place = self.folder / key
        files = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
        if not files or not files[0].is_file():
            raise self.missing(place, key)
        entry = read_manifest(self.folder).get(key, {})
        digests = {file.name: file_digest(file) for file in files}
        known = {name: about["sha256"] for name, about in entry.get("files", {}).items()}
        if known and known != digests:
            raise Mendable(
                f"the files of {key} in {self.folder} are not those of its {MANIFEST}",
                remedy="fetch the data set again, or take its entry out of the manifest if you changed it on purpose",
            )
        own = "sha256:" + "+".join(digest[:12] for digest in digests.values())
        return str(entry.get("revision") or own)

    def _use(self, key: str) -> None:
        self.used[key] = self._state_once(key)

    def _state_once(self, key: str) -> str:
        if key not in self._states:
            self._states[key] = self.state(key)
        return self._states[key]


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder's manifest tells of each data set; nothing where there is no manifest."""
    path = folder / MANIFEST
    return dict(json.loads(path.read_text())["datasets"]) if path.is_file() else {}


def _dataset(file: Path) -> Any:
    """One split, with the column types that were written into the file. Large ones stay on the disk."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    if file.stat().st_size > LARGE_BYTES:
        return Dataset.from_parquet(str(file))
    return Dataset(InMemoryTable(pq.read_table(file)))  # Many times faster than from_parquet, which copies first.


class Source(Protocol):
    """Where data sets come from: a folder, or the hub (hub_data.py)."""

    def load_dataset(
        self, original: Callable[..., Any], path: str, name: str | None = None, *args: Any, **settings: Any
    ) -> Any: ...


@contextmanager
def reading(data: Source | None) -> Iterator[None]:
    """`datasets.load_dataset` reads that source, for everything that the hub would be asked for."""
    if data is None:
        yield
        return
    import datasets

    original = datasets.load_dataset
    datasets.load_dataset = partial(data.load_dataset, original)
    try:
        yield
    finally:
        datasets.load_dataset = original
