"""The tables that describe a study: models, training, corpus, exports, code, machines, superseded stages."""

from __future__ import annotations

from collections import Counter

from sidewinder.model.pattern import LAYER_KINDS
from sidewinder.report.data import Row, StudyData
from sidewinder.report.figures.common import FigureTable
from sidewinder.report.text import count, decimal, digits, percent, power, short, size

SHOWN_CHARACTERS = 160  # Of a dropped document; the catalog has more.
KIND_NAMES = {"mamba2": "Mamba-2", "mamba1": "Mamba-1", "attention": "attention", "mlp": "MLP"}


def models_table(data: StudyData) -> FigureTable:
    """Architectures side by side: properties as rows."""
    first: dict[str, Row] = {}
    for stage in data.stages:
        if stage["kind"] == "pretrain":
            first.setdefault(stage["model"], stage)
    chosen = [first[model] for model in data.models if model in first]
    mean = sum(stage["non_embedding_parameters"] or 0 for stage in chosen) / max(len(chosen), 1)

    def against_mean(stage: Row) -> str:
        own = stage["non_embedding_parameters"]
        return f"{100 * (own / mean - 1):+.1f} %".replace("-", "−") if own and mean else "–"

    table = FigureTable(["", *(stage["model"] for stage in chosen)])
    for name, shown in (
        ("pattern", lambda stage: stage["pattern"] or "–"),
        ("layers", lambda stage: _layers(stage["pattern"])),
        ("hidden size", lambda stage: count(stage["hidden_size"])),
        ("parameters", lambda stage: count(stage["parameters"])),
        ("without embeddings", lambda stage: count(stage["non_embedding_parameters"])),
        ("against the models' mean", against_mean),
        ("FLOPs a token", lambda stage: short(stage["flops_per_token"])),
        ("peak learning rate", lambda stage: f"{stage['learning_rate']:g}" if stage["learning_rate"] else "–"),
    ):
        table.rows.append([name, *(shown(stage) for stage in chosen)])
    return table


def _layers(pattern: str | None) -> str:
    counts = Counter(LAYER_KINDS.get(letter, letter) for letter in pattern or "")
    return ", ".join(f"{number} {KIND_NAMES.get(kind, kind)}" for kind, number in counts.items()) or "–"


def stages_table(data: StudyData) -> FigureTable:
    """Every stage of training, finished or not, all seeds in one row."""
    table = FigureTable(
        ["checkpoint", "context", "sequences a step", "steps", "tokens", "peak rate", "last loss", "status"]
    )
    table.words = frozenset({"checkpoint", "status"})
    seen = set()
    for stage in data.stages:
        key = (stage["model"], stage["kind"], stage["context_tokens"], stage["status"])
        if key in seen:
            continue
        seen.add(key)
        table.rows.append(
            [
                f"{stage['model']} {stage['kind']}-{stage['context_tokens']}",
                count(stage["context_tokens"]),
                count(stage["batch_sequences"]),
                count(stage["steps"]),
                count(stage["tokens"]),
                f"{stage['learning_rate']:g}" if stage["learning_rate"] else "–",
                decimal(stage["final_loss"]),
                stage["status"],
            ]
        )
    return table


def corpus_table(data: StudyData) -> FigureTable:
    """Every source with its share, size, and what was held out and dropped."""
    table = FigureTable(
        [
            "source",
            "language",
            "share",
            "documents",
            "text",
            "tokens",
            "bytes/token",
            "passes",
            "held out",
            "read",
            "dropped",
        ]
    )
    table.words = frozenset({"source", "language"})
    for row in data.corpus:
        table.rows.append(
            [
                row["source"],
                row["language"] or "",
                percent(row["weight"], 1),
                count(row["documents"]),
                size(row["bytes"]),
                short(row["tokens"]),
                "–" if row["bytes_per_token"] is None else f"{row['bytes_per_token']:.2f}",
                _passes(data, row),
                count(row["heldout_documents"]),
                count(row["read_documents"]),
                count(row["dropped_documents"]),
            ]
        )
    return table


def _passes(data: StudyData, source: Row) -> str:
    """How often pretraining goes through a source."""
    budget = max((stage["tokens"] or 0 for stage in data.stages if stage["kind"] == "pretrain"), default=0)
    if not (budget and source["weight"] and source["tokens"]):
        return "–"
    return f"{budget * source['weight'] / source['tokens']:.2f}"


def filters_table(data: StudyData) -> FigureTable:
    """Every cleaning step of every source: what it took in, gave out and dropped, and why."""
    heads = ["documents in", "documents out", "dropped", "why", "bytes in", "bytes out", "≈ tokens out"]
    table = FigureTable(["source", "step", *heads])
    table.words = frozenset({"source", "step", "why"})
    for row in data.filters:
        documents_in, documents_out = row["documents_in"], row["documents_out"]
        known = documents_in is not None and documents_out is not None
        table.rows.append(
            [
                row["source"],
                row["step"],
                count(documents_in),
                count(documents_out),
                count(documents_in - documents_out) if known else "–",
                row["reasons"] or "",
                count(row["bytes_in"]),
                count(row["bytes_out"]),
                short(row["tokens_out"]),
            ]
        )
    return table


def dropped_table(data: StudyData) -> FigureTable:
    """The beginnings of a few documents that each step dropped."""
    table = FigureTable(["source", "step", "why", "document", "text"])
    table.words = frozenset(table.columns)
    for row in data.dropped:
        text = " ".join((row["text"] or "").split())
        table.rows.append([row["source"], row["step"], row["reason"], row["document"] or "", text[:SHOWN_CHARACTERS]])
    return table


def lengths_table(data: StudyData) -> FigureTable:
    """Share of each stage's tokens from documents of at least so many tokens, and fewer than the next column's."""
    bins = sorted({row["from_tokens"] for row in data.lengths})
    table = FigureTable(["stage", *(f"{size:,}" for size in bins)])
    table.words = frozenset({"stage"})
    shares: dict[str, dict[int, float]] = {}
    for row in data.lengths:
        shares.setdefault(f"{row['kind']}-{row['context_tokens']}", {})[row["from_tokens"]] = row["share"]
    for stage, found in shares.items():
        table.rows.append([stage, *(percent(found.get(size, 0.0), 1) for size in bins)])
    return table


def missing_table(data: StudyData) -> FigureTable:
    """What suites could not do, with the reason: a row for the tasks or lengths that the same checkpoints lack."""
    table = FigureTable(["suite", "what", "", "why", "checkpoints"])
    table.words, table.long = frozenset({"suite", "what"}), frozenset({"", "why", "checkpoints"})
    lacking: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for row in data.missing:
        names = lacking.setdefault((row["suite"], row["what"], row["why"]), {})
        own = names.setdefault(f"{row['model']} {row['checkpoint']}", [])
        own += [name for name in [_spelt(row)] if name not in own]  # Seeds lack the same.
    for (suite, what, why), checkpoints in lacking.items():
        together: dict[str, list[str]] = {}
        for checkpoint, own in checkpoints.items():
            together.setdefault(", ".join(own), []).append(checkpoint)
        table.rows += [[suite, what, own, why, ", ".join(found)] for own, found in together.items()]
    return table


def _spelt(row: Row) -> str:
    return count(int(row["name"])) if row["what"] == "length" else row["name"]


def exports_table(data: StudyData) -> FigureTable:
    """Every exported checkpoint with what its verification found."""
    table = FigureTable(
        ["checkpoint", "seed", "class", "largest logit difference", "tokenizer mismatches", "size", "folder"]
    )
    table.words = frozenset({"checkpoint", "class"})
    table.long = frozenset({"folder"})
    for row in data.exports:
        table.rows.append(
            [
                f"{row['model']} {row['kind']}-{row['context_tokens']}",
                str(row["seed"]),
                row["model_class"] or "–",
                power(row["max_logit_difference"]),
                count(row["tokenizer_mismatches"]),
                size(row["bytes"]),
                row["path"],
            ]
        )
    return table


def code_table(data: StudyData) -> FigureTable:
    """Versions of Sidewinder that the study's jobs ran with."""
    table = FigureTable(["version", "commit", "sources", "jobs"])
    table.words = frozenset({"version", "commit", "sources"})
    for row in data.code:
        commit = digits(row["commit"], 12) + (" with changes" if row["dirty"] else "")
        table.rows.append([row["version"] or "–", commit, digits(row["code_sha256"], 12), count(row["jobs"])])
    return table


def machines_table(data: StudyData) -> FigureTable:
    """Machines and environments that the study's jobs ran on."""
    table = FigureTable(["host", "cores", "Python", "system", "packages", "jobs"])
    table.words = frozenset({"host", "Python", "system"})
    table.long = frozenset({"packages"})
    for row in data.machines:
        packages = row["packages"] if isinstance(row["packages"], str) else "{}"
        listed = ", ".join(part.replace('"', "").replace(": ", " ") for part in packages.strip("{}").split(", "))
        table.rows.append(
            [
                row["host"] or "–",
                count(row["cores"]),
                row["python"] or "–",
                row["platform"] or "–",
                listed,
                count(row["jobs"]),
            ]
        )
    return table


def superseded_table(data: StudyData) -> FigureTable:
    """Stages of earlier configurations, and the settings in which they differ from the present ones."""
    table = FigureTable(["stage", "tokens", "last loss", "differs from the present study in"])
    table.words = frozenset({"stage"})
    table.long = frozenset({"differs from the present study in"})
    for row in data.superseded:
        changed = [
            f"{change['key']}: {change['was']} → {change['is']}"
            for change in data.changes
            if change["stage"] == row["stage"]
        ]
        shown = "; ".join(dict.fromkeys(changed)) or "what lies upstream"
        table.rows.append([row["stage"], count(row["tokens"]), decimal(row["final_loss"]), shown])
    return table
