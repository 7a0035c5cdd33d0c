"""What lies below a results folder: records, stages that have begun, and files that nobody there should have left.

Reading is tolerant: a file that is damaged or foreign is named in `warnings` and left out, because one bad file must
not hide all other results.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidewinder.record import RECORD

METRICS, CONFIG, STUDY, LOCK = "metrics.jsonl", "config.json", "study.json", ".lock"
LAUNCHED = "cluster"  # The ledger of a stage's jobs.
# What every record holds; the types tell a record from any other JSON file of that name.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "name": str,
    "identity": str,
    "config": dict,
    "facts": dict,
    "inputs": list,
    "outputs": list,
    "started_at": (int, float),
    "ended_at": (int, float),
    "code": dict,
    "environment": dict,
}
RUN = re.compile(r"^(?P<model>.+)-s(?P<seed>\d+)-(?P<fingerprint>[0-9a-f]{8})$")
STAGE = re.compile(r"^(?P<kind>pretrain|extend)-(?P<context_tokens>\d+)(-[0-9a-f]{8})?$")


@dataclass(frozen=True)
class Record:
    """A finished job. `job` is its folder relative to the results."""

    job: str
    folder: Path
    data: dict[str, Any]
    current: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders of the job's path."""
        return tuple(self.job.split("/"))

    @property
    def stage(self) -> str | None:
        """`run/stage` of a training, evaluation or export job."""
        return "/".join(self.parts[1:3]) if self.parts[0] == "runs" and len(self.parts) >= 3 else None

    @property
    def suite(self) -> str | None:
        """Name of the suite of an evaluation job, without its fingerprint."""
        found = len(self.parts) == 5 and self.parts[3] == "eval"
        return self.parts[4].rsplit("-", 1)[0] if self.stage and found else None

    def fact(self, key: str) -> Any:
        """What the job wrote down under that name; None where it did not."""
        return self.data["facts"].get(key)

    def outputs(self, role: str) -> list[dict[str, Any]]:
        """Files of that role, as the record lists them."""
        return [entry for entry in self.data["outputs"] if entry["role"] == role]


@dataclass(frozen=True)
class StageFolder:
    """A training stage that has at least begun; `record` is None, and `config` may be empty, until it is finished."""

    stage: str
    folder: Path
    config: dict[str, Any]
    record: Record | None
    current: bool


@dataclass
class Survey:
    """What was found; `warnings` are (path, message) of what was left out."""

    records: list[Record] = field(default_factory=list)
    stages: list[StageFolder] = field(default_factory=list)
    study: dict[str, Any] | None = None
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def warn(self, path: Path, message: str) -> None:
        """Notes a file that is left out."""
        self.warnings.append((str(path), message))


def survey(results: Path, current: Sequence[Path] | None) -> Survey:
    """Finds everything below `results`, in order of path.

    `current` lists the records that the present study asks for, existing or not; None takes all as current.
    """
    found = Survey()
    wanted = None if current is None else {path.resolve() for path in current}
    documents = _json_files(results)
    for path in documents:
        if path.name == RECORD:
            data = _record(path, found)
            if data is not None:
                job = path.parent.relative_to(results).as_posix()
                found.records.append(Record(job, path.parent, data, wanted is None or path.resolve() in wanted))
    _find_stages(results, wanted, found)
    _name_foreign(results, documents, found)
    if (results / STUDY).is_file():
        found.study = read_json(results / STUDY, found)
    return found


def read_json(path: Path, found: Survey) -> dict[str, Any] | None:
    """A JSON object, or None after a warning."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        found.warn(path, f"cannot be read: {error}")
        return None
    if not isinstance(value, dict):
        found.warn(path, f"is not a JSON object but {type(value).__name__}")
        return None
    return value


def _json_files(results: Path) -> list[Path]:
    """All JSON files in sorted order; hidden folders and the state of training runs are not entered."""
    files: list[Path] = []
    for folder, inner, names in os.walk(results):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in ("state", "logs"))
        files.extend(Path(folder) / name for name in names if name.endswith(".json") and not name.startswith("."))
    return sorted(files)


def _record(path: Path, found: Survey) -> dict[str, Any] | None:
    data = read_json(path, found)
    if data is None:
        return None
    wrong = [key for key, kind in REQUIRED.items() if not isinstance(data.get(key), kind)]
    if wrong:
        found.warn(path, f"is not a record: {', '.join(wrong)} missing or of another type")
        return None
    for entry in data["inputs"] + data["outputs"]:
        if not isinstance(entry, dict) or not {"role", "path", "sha256", "bytes"} <= entry.keys():
            found.warn(path, f"is not a record: {entry!r:.80} is not an artifact")
            return None
    return data


def _find_stages(results: Path, wanted: set[Path] | None, found: Survey) -> None:
    records = {record.job: record for record in found.records}
    for folder in sorted((results / "runs").glob("*/*")):
        stage, has_config = f"{folder.parent.name}/{folder.name}", (folder / CONFIG).is_file()
        record = records.get(f"runs/{stage}")
        if not (record or has_config or (folder / METRICS).is_file() or (folder / LAUNCHED).is_dir()):
            continue
        if not (RUN.match(folder.parent.name) and STAGE.match(folder.name)):
            found.warn(folder, "is not named MODEL-sSEED-FINGERPRINT/STAGE-CONTEXT, so it is no stage of a run")
            continue
        config = read_json(folder / CONFIG, found) if has_config else None
        if config is None:
            config = record.data["config"] if record else {}
        is_current = wanted is None or (folder / RECORD).resolve() in wanted
        found.stages.append(StageFolder(stage, folder, config, record, is_current))


def _name_foreign(results: Path, documents: list[Path], found: Survey) -> None:
    """Warns of JSON files that belong to no job; a job's own folder, finished or not, may hold what it likes."""
    jobs = {record.folder for record in found.records} | {stage.folder for stage in found.stages}
    for path in documents:
        if path.name == RECORD or path == results / STUDY:
            continue
        above = [folder for folder in path.parents if folder.is_relative_to(results)]
        if not any(folder in jobs or (folder / LOCK).exists() for folder in above):
            found.warn(path, "belongs to no job of this study; it is left out")
