"""Records → rows of jobs, facts, environments, artifacts and edges."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sidewinder.catalog.survey import Record
from sidewinder.record import digest

Row = dict[str, Any]
Rows = dict[str, list[Row]]


def flatten(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as (dotted key, leaf) in order; lists are leaves."""
    leaves: list[tuple[str, Any]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict) and inner:
            leaves.extend(flatten(inner, f"{name}."))
        else:
            leaves.append((name, inner))
    return leaves


def text(value: Any) -> str:
    """A leaf as text: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def number(value: Any) -> float | int | None:
    """The value where it is a number, else None, so that an odd fact does not stop the catalog."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def whole(value: Any) -> int | None:
    """The value as DuckDB's BIGINT where it is a number that fits, else None."""
    found = number(value)
    return int(found) if found is not None and found == found and abs(found) < 2**63 else None


def artifact_name(entry: dict[str, Any]) -> str:
    """Key of an artifact: one file with one content."""
    return f"{entry['path']}@{entry['sha256'][:12]}"


def job_rows(records: Iterable[Record]) -> Rows:
    """Rows of all tables that every record fills."""
    rows: Rows = {"jobs": [], "facts": [], "environments": []}
    environments: dict[str, Row] = {}
    for record in records:
        environment = _environment(record.data["environment"])
        environments[environment["environment"]] = environment
        rows["jobs"].append(_job(record, environment["environment"]))
        rows["facts"].extend(
            {"job": record.job, "key": key, "value": text(value), "number": number(value)}
            for key, value in flatten(record.data["facts"])
        )
    rows["environments"] = [environments[key] for key in sorted(environments)]
    return rows


def _environment(found: dict[str, Any]) -> Row:
    shared = {key: found.get(key) for key in ("python", "platform", "packages")}
    return {
        "environment": digest(shared)[:12],
        "python": shared["python"],
        "platform": shared["platform"],
        "packages": json.dumps(shared["packages"], sort_keys=True),
    }


def _job(record: Record, environment: str) -> Row:
    data, code, place = record.data, record.data["code"], record.data["environment"]
    command = data.get("command")
    return {
        "job": record.job,
        "kind": "blend" if record.outputs("blend") else data["kind"],  # Its record counts it as tokens.
        "name": data["name"],
        "identity": data["identity"],
        "run": record.stage.split("/")[0] if record.stage else None,
        "stage": record.stage,
        "suite": record.suite,
        "config": json.dumps(data["config"]),
        "config_sha256": digest(data["config"]),
        "started_at": data["started_at"],
        "ended_at": data["ended_at"],
        "wall_s": number(data.get("wall_s")),
        "cpu_s": number(data.get("cpu_s")),
        "peak_memory_bytes": whole(data.get("peak_memory_bytes")),
        "version": code.get("version"),
        "code_sha256": code.get("sha256"),
        "commit": code.get("commit"),
        "dirty": code.get("dirty"),
        "environment": environment,
        "host": place.get("host"),
        "cores": whole(place.get("cores")),
        "slurm_job_id": place.get("slurm_job_id"),
        "command": " ".join(map(str, command)) if isinstance(command, list) else command,
        "current": record.current,
    }


def lineage_rows(records: Iterable[Record]) -> Rows:
    """Artifacts and the edges between them and jobs; a file that no record made comes from outside."""
    artifacts: dict[str, Row] = {}
    edges: dict[tuple[str, str, str], Row] = {}
    for record in records:
        for relation in ("used", "produced"):
            for entry in record.data["inputs" if relation == "used" else "outputs"]:
                name = artifact_name(entry)
                row = artifacts.setdefault(name, _artifact(name, entry))
                row["current"] = row["current"] or record.current
                src, dst = (name, record.job) if relation == "used" else (record.job, name)
                if relation == "produced":
                    row["job"], row["role"] = record.job, entry["role"]
                edges[src, dst, entry["role"]] = {"src": src, "dst": dst, "relation": relation, "role": entry["role"]}
    return {
        "artifacts": [artifacts[name] for name in sorted(artifacts)],
        "edges": [edges[key] for key in sorted(edges)],
    }


def _artifact(name: str, entry: dict[str, Any]) -> Row:
    return {
        "artifact": name,
        "path": entry["path"],
        "sha256": entry["sha256"],
        "bytes": entry["bytes"],
        "role": entry["role"],
        "job": None,
        "current": False,
    }
