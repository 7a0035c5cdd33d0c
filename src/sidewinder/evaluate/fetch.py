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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidewinder.config.suites import Harness, Suite
from sidewinder.errors import DataError
from sidewinder.evaluate.local_data import DEFAULT, MANIFEST
from sidewinder.evaluate.presets import tasks
from sidewinder.record import file_digest, write_atomically

SCROLLS = "tau/scrolls"
SCROLLS_NAMES = {"scrolls_narrativeqa": "narrative_qa", "scrolls_qasper": "qasper", "scrolls_quality": "quality"}
SCROLLS_SPLITS = ("train", "validation")
HUB = "https://huggingface.co/datasets"
ESSAY_TASKS = ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
FILES = {
    # RULER's question files: (place in the folder, address). The second is pinned by lm-eval itself.
    "ruler_qa_squad": ("ruler/dev-v2.0.json", "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json"),
    "ruler_qa_hotpot": (
        "ruler/hotpot_dev_distractor_v1.json",
        f"{HUB}/namlh2004/hotpotqa/resolve/7e54db4656209750ff487f6fdf8e39a66dba136b/hotpot_dev_distractor_v1.json",
    ),
}


@dataclass(frozen=True)
class Need:
    """A data set of the hub (path and configuration), or a file (place and address), and a task that reads it."""

    task: str
    path: str
    name: str | None = None
    address: str | None = None

    @property
    def key(self) -> str:
        """Its folder, or file, below the data folder."""
        return self.path if self.address else f"{self.path}/{self.name or DEFAULT}"


def needs(suites: Iterable[Suite]) -> list[Need]:
    """What the tasks of all harness suites read, each once, in order. Unknown tasks are named and passed over."""
    found: dict[str, Need] = {}
    for suite in suites:
        if isinstance(suite, Harness):
            for task in tasks(suite):
                for need in _needs_of(task, suite.haystack):
                    found.setdefault(need.key, need)
    return list(found.values())


def fetch(suites: Iterable[Suite], into: Path) -> dict[str, str]:
    """Fetches what is missing; returns what could not be had, with the reason. Prints one line a data set."""
    into.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    for need in needs(suites):
        manifest = _manifest(into)
        known = manifest["datasets"].get(need.key, {})
        if known and all((into / name).is_file() for name in _files(need, known)):
            print(f"{need.key}: there already ({known.get('revision') or 'no revision'})")
            continue
        try:
            entry = _fetch_file(need, into) if need.address else _fetch_set(need, into, known.get("revision"))
        except Exception as error:  # The hub's client raises errors of many kinds; the others are still fetched.
            failed[need.key] = f"{type(error).__name__}: {error}"
            print(f"{need.key}: cannot be had: {failed[need.key]}", file=sys.stderr)
            continue
        manifest["datasets"][need.key] = entry
        write_atomically(into / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        print(f"{need.key}: {', '.join(entry['files'])} ({entry.get('revision') or 'no revision'})")
    _fetch_splitter(into)
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


def _needs_of(task: str, haystack: str) -> list[Need]:
    if task in FILES:
        place, address = FILES[task]
        return [Need(task, place, address=address)]
    if task in SCROLLS_NAMES:
        return [Need(task, SCROLLS, SCROLLS_NAMES[task])]
    if task in ESSAY_TASKS:
        return [Need(task, "baber/paul_graham_essays")] if haystack == "essays" else []
    return [Need(task, path, name) for path, name in _hub_sets(task)]


def _hub_sets(task: str) -> list[tuple[str, str | None]]:
    """(path, configuration) of every data set that a task, or a group of tasks, of lm-eval reads."""
    from sidewinder.evaluate import loading

    index = loading.manager_for([task]).task_index
    if task not in index:
        print(f"unknown lm-eval task {task!r}: nothing is fetched for it", file=sys.stderr)
        return []
    if task == "squadv2":  # A class, whose file tells; the same for other classes of lm-eval.
        return [("lighteval/squad_v2", None)]
    found: list[tuple[str, str | None]] = []
    _collect(index, index[task].cfg or {}, set(), lambda path, name: found.append((path, name)))
    return list(dict.fromkeys(found))


def _collect(index: Any, config: Any, seen: set[str], add: Callable[[str, str | None], None]) -> None:
    """Follows groups and tags down to their tasks."""
    if config.get("dataset_path"):
        add(str(config["dataset_path"]), config.get("dataset_name"))
    members = config.get("task")
    for member in members if isinstance(members, list) else []:
        if isinstance(member, dict):
            _collect(index, member, seen, add)
            name = member.get("group") or member.get("task")
        else:
            name = member
        if isinstance(name, str) and name in index and name not in seen:
            seen.add(name)
            entry = index[name]
            for own in sorted(entry.tags) if entry.cfg is None else ():
                _collect(index, index[own].cfg or {}, seen, add)
            _collect(index, entry.cfg or {}, seen, add)


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
    write_atomically(place, answer.text)
    return {"files": {place.name: {"sha256": file_digest(place), "bytes": place.stat().st_size}}}


def _fetch_splitter(into: Path) -> None:
    """NLTK's tables of sentence ends, which RULER's needles are placed by; without them a plain rule serves."""
    try:
        import nltk
    except ImportError:
        return
    if not (into / "nltk_data" / "tokenizers" / "punkt_tab").is_dir():
        nltk.download("punkt_tab", download_dir=str(into / "nltk_data"), quiet=True)


def _files(need: Need, entry: dict[str, Any]) -> list[str]:
    folder = Path(need.key).parent if need.address else Path(need.key)
    return [str(folder / name) for name in entry["files"]]


def _manifest(into: Path) -> dict[str, Any]:
    path = into / MANIFEST
    return json.loads(path.read_text()) if path.is_file() else {"format": 1, "datasets": {}}
