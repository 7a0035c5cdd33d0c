"""`sidewinder datasets fetch`: the data sets of a study's suites, into a folder that machines without a network read.

Revisions are those of the hub's branches at the first fetch, and are kept in the folder's manifest: a second fetch
takes the same ones. A data set that cannot be had is named, and the others are fetched all the same.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sidewinder.config.suites import Suite
from sidewinder.errors import DataError
from sidewinder.evaluate.local_data import MANIFEST, read_manifest
from sidewinder.evaluate.needs import SCROLLS, Need, needs
from sidewinder.record import file_digest, write_atomically

SCROLLS_SPLITS = ("train", "validation")


def fetch(suites: Iterable[Suite], into: Path) -> dict[str, str]:
    """Fetches what is missing; returns what could not be had, with the reason. Prints one line a data set.

    Tasks that there are not are among the former.
    """
    into.mkdir(parents=True, exist_ok=True)
    wanted, unknown = needs(suites)
    failed = {task.task: str(task) for task in unknown}
    for need in wanted:
        sets = read_manifest(into)
        known = sets.get(need.key, {})
        if known and all((into / name).is_file() for name in _files(need, known)):
            print(f"{need.key}: there already ({known.get('revision') or 'no revision'})")
            continue
        try:
            entry = _fetch_file(need, into) if need.address else _fetch_set(need, into, known.get("revision"))
        except Exception as error:  # The hub's client raises errors of many kinds; the others are still fetched.
            failed[need.key] = f"{type(error).__name__}: {error}"
            print(f"{need.key}: cannot be had: {failed[need.key]}", file=sys.stderr)
            continue
        manifest = {"format": 1, "datasets": sets | {need.key: entry}}
        write_atomically(into / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        print(f"{need.key}: {', '.join(entry['files'])} ({entry.get('revision') or 'no revision'})")
    return failed


def fetch_all(suites: Iterable[Suite], into: Path) -> None:
    """As `fetch`. Raises DataError that names everything that could not be had."""
    failed = fetch(suites, into)
    if failed:
        listed = "\n  ".join(f"{key}: {reason}" for key, reason in failed.items())
        raise DataError(
            f"{len(failed)} data sets could not be fetched:\n  {listed}",
            remedy="run it again where there is a network; what is there already is kept. Data sets behind a login "
            "need `hf auth login`",
        )


def _fetch_set(need: Need, into: Path, revision: str | None) -> dict[str, Any]:
    """Every split as Parquet, beside its place and renamed; its manifest entry."""
    from huggingface_hub import HfApi

    revision = revision or str(HfApi().dataset_info(need.path).sha)
    splits = _load(need, revision)
    place, part = into / need.key, into / f".{need.key.replace('/', '-')}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for split, rows in splits.items():
        rows.to_parquet(str(part / f"{split}.parquet"))
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    part.rename(place)
    files = {file.name: {"sha256": file_digest(file), "bytes": file.stat().st_size} for file in sorted(place.iterdir())}
    return {"revision": revision, "files": files, "rows": {split: len(rows) for split, rows in splits.items()}}


def _load(need: Need, revision: str) -> Any:
    import datasets

    if need.path != SCROLLS:
        return datasets.load_dataset(need.path, need.name, revision=revision)
    from huggingface_hub import hf_hub_download

    archive = hf_hub_download(SCROLLS, f"{need.name}.zip", repo_type="dataset", revision=revision)
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(archive) as opened:
        files = {split: opened.extract(f"{need.name}/{split}.jsonl", scratch) for split in SCROLLS_SPLITS}
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_json(file, keep_in_memory=True) for split, file in files.items()}
        )


def _fetch_file(need: Need, into: Path) -> dict[str, Any]:
    import requests

    assert need.address
    answer = requests.get(need.address, timeout=300)
    answer.raise_for_status()
    place = into / need.path
    write_atomically(place, answer.content.decode())  # JSON is UTF-8, whatever the server says of it.
    return {"files": {place.name: {"sha256": file_digest(place), "bytes": place.stat().st_size}}}


def _files(need: Need, entry: dict[str, Any]) -> list[str]:
    folder = Path(need.key).parent if need.address else Path(need.key)
    return [str(folder / name) for name in entry["files"]]
