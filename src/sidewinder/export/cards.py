"""Model cards: README.md of every export of the study, written from the catalog alone.

A card holds scores, so it is not part of the export job: it is made after the catalog, and anew when that changes.
Equal catalogs give equal bytes: nothing here reads a clock.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from sidewinder.catalog.query import open_catalog, run_query
from sidewinder.graph import Graph
from sidewinder.record import write_atomically

Row = dict[str, Any]

MODEL = """
SELECT
    s.*, r.pattern, r.hidden_size, r.parameters, r.non_embedding_parameters, e.model_class, e.job AS export_job,
    e.max_logit_difference, e.tokenizer_mismatches, p.kind AS parent_kind, p.context_tokens AS parent_context_tokens,
    coalesce(j.commit, j.code_sha256) AS code, j.dirty, j.version, (SELECT name FROM study) AS study
FROM exports AS e JOIN stages AS s USING (stage) JOIN runs AS r ON r.run = s.run
LEFT JOIN jobs AS j ON j.job = s.job LEFT JOIN stages AS p ON p.stage = s.parent
WHERE e.stage = $stage
"""
SETTINGS = "SELECT key, value FROM params WHERE stage = $stage"
DATA = """
WITH read AS (
    SELECT parse_dirpath(dst) AS job, string_agg(DISTINCT a.path, ', ' ORDER BY a.path) AS packages
    FROM edges AS e JOIN artifacts AS a ON a.artifact = e.src
    WHERE e.relation = 'used' AND e.role = 'package' GROUP BY ALL
)
SELECT c.source, c.weight, c.language, c.licence, c.tokens, r.packages
FROM corpus AS c LEFT JOIN (FROM sources WHERE current) AS s USING (source) LEFT JOIN read AS r ON r.job = s.job
ORDER BY c.weight DESC, c.source
"""
SCORES = """
SELECT suite, task, metric, variant, context_tokens, value, stderr, n FROM evals
WHERE stage = $stage AND current AND value IS NOT NULL
ORDER BY suite, task, variant NULLS FIRST, metric, context_tokens
"""
EXPORTED = "SELECT path, sha256 FROM artifacts WHERE job = $job AND path LIKE '%.safetensors' ORDER BY path"
IDENTIFYING = ("checkpoint", "tokenizer", "blend")


def write_cards(graph: Graph) -> None:
    """Writes the card of every finished export of the study. Raises CatalogError where the catalog is missing."""
    with open_catalog(graph.catalog) as catalog:
        for stage in graph.stages:
            path = graph.card(stage)
            card = model_card(catalog, f"{stage.run}/{stage.name}", graph.results)
            if card is None:
                print(f"warning: {path.parent} is not a finished export; it gets no card", file=sys.stderr)
            else:
                write_atomically(path, card)


def model_card(catalog: duckdb.DuckDBPyConnection, stage: str, results: Path) -> str | None:
    """Text of README.md for the export of a stage, or None where the catalog has none.

    Files are named relative to the folder `results`, so that a published card does not tell where that was.
    """
    found = _rows(catalog, MODEL, stage=stage)
    if not found:
        return None
    model, name = found[0], f"{found[0]['model']}-s{found[0]['seed']} {found[0]['kind']}-{found[0]['context_tokens']}"
    settings = {row["key"]: row["value"] for row in _rows(catalog, SETTINGS, stage=stage)}
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [sidewinder]
---

# {model["study"]}: {name}

Trained by Sidewinder in a controlled comparison of architectures: run `{model["run"]}`, stage `{stage.split("/")[1]}`.

## Model

{_table(("", ""), _architecture(model, settings))}

## Use

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = torch.tensor([[tokenizer.eos_token_id, *tokenizer("The ").input_ids]])
print(tokenizer.decode(model.generate(prompt, max_new_tokens=40)[0]))
```

No custom code is needed. In training each document came after the end token, so begin a prompt with its id; written in
a text, control tokens are text.

## Training

{_table(("", ""), _training(model, settings))}

## Data

{_table(("source", "share of tokens", "language", "licence", "training tokens", "read from"), _data(catalog))}

## Scores

{_scores(_rows(catalog, SCORES, stage=stage))}
{_missing(_rows(catalog, "missing", stage=stage))}
## Lineage

{_table(("", "file", "SHA-256"), _digests(catalog, model["export_job"], results))}

Everything that these were made from: `sidewinder query lineage --param of={model["export_job"]}`
"""


def _architecture(model: Row, settings: dict[str, str]) -> list[Sequence[str]]:
    return [
        ("class", f"`{model['model_class']}`"),
        ("layers", f"`{model['pattern']}` (M Mamba-2, m Mamba-1, * attention, - MLP)"),
        ("hidden size, norm", f"{_count(model['hidden_size'])}, {settings.get('model.norm', 'not recorded')}"),
        *((key, f"`{text}`") for key, text in _layer_sizes(model["pattern"] or "", settings)),
        ("parameters", _count(model["parameters"])),
        ("without embeddings", _count(model["non_embedding_parameters"])),
        ("trained context", f"{_count(model['context_tokens'])} tokens"),
    ]


def _layer_sizes(pattern: str, settings: dict[str, str]) -> Iterable[tuple[str, str]]:
    """Sizes of the kinds of layers that the pattern has, as config.yaml writes them."""
    for letter, kind in (("M", "mamba2"), ("m", "mamba1"), ("*", "attention"), ("-", "mlp")):
        prefix = f"model.{kind}."
        sizes = [f"{key.removeprefix(prefix)}: {settings[key]}" for key in sorted(settings) if key.startswith(prefix)]
        if letter in pattern:
            yield kind, ", ".join(sizes)


def _training(model: Row, settings: dict[str, str]) -> list[Sequence[str]]:
    get = {key.removeprefix("training."): value for key, value in settings.items()}.get
    parent = "nothing" if model["parent"] is None else f"{model['parent_kind']}-{model['parent_context_tokens']}"
    return [
        ("started from", parent),
        ("tokens of this stage", _count(model["tokens"])),
        ("tokens before it", _count(model["parent_tokens"])),
        ("batch", f"{_count(model['batch_sequences'])} x {_count(model['context_tokens'])} tokens"),
        ("learning rate", f"{_number(model['learning_rate'])} to {get('minimum_learning_rate', '?')}"),
        ("weight decay, clip", f"{get('weight_decay', '?')}, {get('clip_norm', '?')}"),
        ("precision", get("precision", "not recorded")),
        ("seed", _count(model["seed"])),
        ("steps", _count(model["steps"])),
        ("loss at the end", _number(model["final_loss"])),
        ("FLOPs a token", _number(model["flops_per_token"])),
        ("time in training", f"{_number(model['train_s'])} s"),
        ("code", f"Sidewinder {model['version']}, {model['code']}{' with changes' if model['dirty'] else ''}"),
    ]


def _data(catalog: duckdb.DuckDBPyConnection) -> list[Sequence[str]]:
    return [
        (
            row["source"],
            "not recorded" if row["weight"] is None else f"{row['weight']:.2%}",
            row["language"] or "synthetic",
            row["licence"] or "not stated",
            _count(row["tokens"]),
            row["packages"] or "–",
        )
        for row in _rows(catalog, DATA)
    ]


def _scores(scores: list[Row]) -> str:
    """One table of scores that have no length, and one a suite with prompt lengths as columns."""
    if not scores:
        return "None has been recorded."
    plain = [row for row in scores if row["context_tokens"] is None]
    parts = []
    if plain:
        rows = [(*_named(row), _value(row), _count(row["n"])) for row in plain]
        parts.append(_table(("suite", "task", "metric", "score ± standard error", "samples"), rows))
    for suite in sorted({row["suite"] for row in scores if row["context_tokens"] is not None}):
        own = [row for row in scores if row["suite"] == suite and row["context_tokens"] is not None]
        lengths = sorted({row["context_tokens"] for row in own})
        lines: dict[tuple[str, ...], dict[int, str]] = {}
        for row in own:
            lines.setdefault(_named(row), {})[row["context_tokens"]] = f"{_value(row)} (n {_count(row['n'])})"
        header = ("suite", "task", "metric", *(f"{length:,} tokens" for length in lengths))
        parts.append(_table(header, [(*key, *(cells.get(at, "–") for at in lengths)) for key, cells in lines.items()]))
    return "\n\n".join(parts)


def _missing(lacking: list[Row]) -> str:
    """What suites could not do, under a line of its own; nothing where they did everything."""
    if not lacking:
        return ""
    rows = [(row["suite"], row["what"], row["name"], row["why"]) for row in lacking]
    return f"\nWhat is not in them:\n\n{_table(('suite', 'what', 'which', 'why'), rows)}\n"


def _named(row: Row) -> tuple[str, ...]:
    return row["suite"], row["task"], " ".join(filter(None, [row["variant"], row["metric"]]))


def _value(row: Row) -> str:
    error = "" if row["stderr"] is None else f" ± {row['stderr']:.4f}"
    return f"{row['value']:.4f}{error}"


def _digests(catalog: duckdb.DuckDBPyConnection, job: str, results: Path) -> list[Sequence[str]]:
    """The exported weights, then the files that identify what they were made from, nearest first."""
    exported = [("this export", row["path"], row["sha256"]) for row in _rows(catalog, EXPORTED, job=job)]
    behind = [
        (row["kind"], row["name"], row["sha256"])
        for row in _rows(catalog, "lineage", of=job)
        if row["what"] == "artifact" and row["kind"] in IDENTIFYING
    ]
    return [(what, f"`{path.removeprefix(f'{results}/')}`", f"`{sha256}`") for what, path, sha256 in exported + behind]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _rows(catalog: duckdb.DuckDBPyConnection, query: str, **values: Any) -> list[Row]:
    """Answer to SQL or a named query."""
    return run_query(catalog, query, values).records()


def _count(value: int | None) -> str:
    return "not recorded" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "not recorded" if value is None else f"{value:.6g}"
