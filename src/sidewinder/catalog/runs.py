"""Stage folders → rows of runs, stages, params, attempts, checkpoints; and of the scores and exports made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from sidewinder.catalog.attempts import attempt_rows
from sidewinder.catalog.rows import Row, Rows, artifact_name, flatten, number, text, whole
from sidewinder.catalog.survey import RUN, STAGE, Record, StageFolder, Survey, read_json
from sidewinder.record import file_digest

TYPES = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null"}


def run_rows(stages: Iterable[StageFolder]) -> Rows:
    """Rows of every table that describes training."""
    rows: Rows = {"runs": [], "stages": [], "params": [], "attempts": [], "checkpoints": []}
    for run, members in groupby(stages, key=lambda stage: stage.stage.split("/")[0]):
        folders = list(members)
        described = {folder.stage: _stage(folder, folders) for folder in folders}
        for row in described.values():
            row["parent_tokens"] = _tokens_before(row, described)
        rows["stages"].extend(described.values())
        rows["runs"].append(_run(run, folders, list(described.values())))
        for folder in folders:
            attempts = attempt_rows(folder)
            described[folder.stage]["attempts"] = len(attempts) or None
            rows["attempts"].extend(attempts)
            rows["params"].extend(_params(folder))
            rows["checkpoints"].extend(_checkpoints(folder, described[folder.stage]))
    return rows


def _stage(folder: StageFolder, siblings: list[StageFolder]) -> Row:
    run, name = folder.stage.split("/")
    named, stage = RUN.match(run), STAGE.match(name)
    assert named  # `survey` lets no others through.
    assert stage
    training, record = _block(folder.config, "training"), folder.record
    data: dict[str, Any] = record.data if record else {}
    facts = data.get("facts", {})
    return {
        "stage": folder.stage,
        "run": run,
        "model": named["model"],
        "seed": int(named["seed"]),
        "kind": stage["kind"],
        "parent": _parent(folder, siblings) if stage["kind"] == "extend" else None,
        "context_tokens": int(stage["context_tokens"]),
        "batch_sequences": whole(training.get("batch_sequences")),
        "learning_rate": number(training.get("learning_rate")),
        "steps": whole(facts.get("steps")),
        "tokens": whole(facts.get("tokens")),
        "final_loss": number(facts.get("final_loss")),
        "flops_per_token": number(facts.get("flops_per_token")),
        "train_s": number(facts.get("train_s")),
        "tokens_per_s": number(facts.get("tokens_per_s")),
        "peak_memory_bytes": whole(data.get("peak_memory_bytes")),
        "status": "finished" if record else "unfinished",
        "job": f"runs/{folder.stage}",
        "started_at": data.get("started_at"),
        "ended_at": data.get("ended_at"),
        "current": folder.current,
    }


def _block(config: dict[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}


def _parent(folder: StageFolder, siblings: list[StageFolder]) -> str | None:
    """The stage whose weights a record lists among its inputs; while there is no record, the run's pretraining."""
    read = {entry["sha256"] for entry in folder.record.data["inputs"]} if folder.record else set()
    for other in siblings:
        made = {entry["sha256"] for entry in other.record.outputs("checkpoint")} if other.record else set()
        if other.stage != folder.stage and made & read:
            return other.stage
    return next((other.stage for other in siblings if "/pretrain-" in other.stage), None)


def _tokens_before(row: Row, described: dict[str, Row]) -> int:
    total, parent = 0, row["parent"]
    while parent:
        total += described[parent]["tokens"] or 0
        parent = described[parent]["parent"]
    return total


def _run(run: str, folders: list[StageFolder], stages: list[Row]) -> Row:
    named = RUN.match(run)
    assert named
    done = [row for row in stages if row["status"] == "finished"]
    model = next((_block(folder.config, "model") for folder in folders if "model" in folder.config), {})
    facts: dict[str, Any] = next((folder.record.data["facts"] for folder in folders if folder.record), {})
    pattern = model.get("pattern")
    return {
        "run": run,
        "model": named["model"],
        "seed": int(named["seed"]),
        "fingerprint": named["fingerprint"],
        "pattern": pattern,
        "layers": len(pattern) if isinstance(pattern, str) else None,
        "hidden_size": whole(model.get("hidden_size")),
        "parameters": whole(facts.get("parameters")),
        "non_embedding_parameters": whole(facts.get("non_embedding_parameters")),
        "context_tokens": max((row["context_tokens"] for row in done), default=None),
        "tokens": sum(row["tokens"] or 0 for row in done),
        "train_s": sum(row["train_s"] or 0 for row in done),
        "status": "finished" if len(done) == len(stages) else "unfinished",
        "started_at": min((row["started_at"] for row in done), default=None),
        "ended_at": max((row["ended_at"] for row in done), default=None),
        "current": any(row["current"] for row in stages),
    }


def _params(folder: StageFolder) -> list[Row]:
    run = folder.stage.split("/")[0]
    return [
        {"stage": folder.stage, "run": run, "key": key, "value": text(value), "type": TYPES.get(type(value), "array")}
        for key, value in sorted(flatten(folder.config))
    ]


def _checkpoints(folder: StageFolder, row: Row) -> list[Row]:
    if folder.record is None:
        return []
    return [
        {
            "artifact": artifact_name(entry),
            "stage": folder.stage,
            "run": row["run"],
            "context_tokens": row["context_tokens"],
            "step": row["steps"],
            "tokens": None if row["tokens"] is None else row["parent_tokens"] + row["tokens"],
            "path": entry["path"],
            "sha256": entry["sha256"],
            "bytes": entry["bytes"],
            "current": folder.current,
        }
        for entry in folder.record.outputs("checkpoint")
    ]


def score_rows(records: Iterable[Record], found: Survey) -> Rows:
    """Scores of all evaluation jobs; a file that changed since its record, or is damaged, is named and left out."""
    rows: list[Row] = []
    for record in records:
        for entry in record.outputs("scores") if record.stage else []:
            path = _beside(record, entry)
            if not path.is_file() or file_digest(path) != entry["sha256"]:
                found.warn(path, "is missing or not the file that its record lists; its scores are left out")
                continue
            document = read_json(path, found)
            if document is not None:
                rows.extend(_scores(record, entry, document, found))
    return {"evals": rows}


def _beside(record: Record, entry: dict[str, Any]) -> Path:
    """The file in its record's own folder, so that a results folder may be moved or read from elsewhere."""
    return record.folder / Path(entry["path"]).name


def _scores(record: Record, entry: dict[str, Any], document: dict[str, Any], found: Survey) -> list[Row]:
    listed, stage, versions = document.get("scores"), record.stage, document.get("versions") or {}
    weights = [artifact_name(given) for given in record.data["inputs"] if given["role"] == "checkpoint"]
    rows: list[Row] = []
    for score in listed if isinstance(listed, list) else []:
        if not isinstance(score, dict) or not {"task", "metric", "value"} <= score.keys():
            found.warn(_beside(record, entry), f"{score!r:.80} is not a score; it is left out")
            continue
        rows.append(
            {
                "stage": stage,
                "run": stage.split("/")[0] if stage else None,
                "suite": document.get("suite") or record.suite,
                "kind": document.get("kind"),
                "task": score["task"],
                "metric": score["metric"],
                "variant": score.get("variant"),
                "context_tokens": whole(score.get("context_tokens")),
                "part_of": versions.get(f"{score['task']} group"),
                "value": number(score["value"]),
                "stderr": number(score.get("stderr")),
                "n": whole(score.get("n")),
                "artifact": artifact_name(entry),
                "checkpoint": weights[0] if weights else None,
                "job": record.job,
                "versions": json.dumps(versions, sort_keys=True),
                "current": record.current,
            }
        )
    return rows


def export_rows(records: Iterable[Record]) -> Rows:
    """One row for each exported checkpoint."""
    rows: list[Row] = []
    for record in records:
        files = record.outputs("export")
        if not record.stage or not files:
            continue
        rows.append(
            {
                "job": record.job,
                "stage": record.stage,
                "run": record.stage.split("/")[0],
                "path": record.data.get("folder"),
                "model_class": record.fact("model_class"),
                "files": len(files),
                "bytes": sum(entry["bytes"] for entry in files),
                "max_logit_difference": number(record.fact("max_logit_difference")),
                "tokenizer_mismatches": whole(record.fact("tokenizer_mismatches")),
                "current": record.current,
            }
        )
    return {"exports": rows}
