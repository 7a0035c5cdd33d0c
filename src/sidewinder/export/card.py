"""The model card: what the model is, what it was trained on and how, from the records of the study alone.

Scores are left out: an export does not depend on evaluations, and the same checkpoint must give the same files.
"""

from __future__ import annotations

from typing import Any

from sidewinder.config.study import Study
from sidewinder.graph import Stage


def model_card(study: Study, stage: Stage, record: dict[str, Any], model_class: str) -> str:
    """Text of README.md."""
    facts, training = record["facts"], stage.training
    rows = [
        ("study, run, stage", f"{study.study}, {stage.run}, {stage.name}"),
        ("architecture", f"`{stage.model.layers}` (M Mamba-2, m Mamba-1, * attention, - MLP), {model_class}"),
        ("hidden size, norm", f"{stage.model.hidden_size:,}, {stage.model.norm}"),
        ("parameters", _count(facts, "parameters")),
        ("without embeddings", _count(facts, "non_embedding_parameters")),
        ("context", f"{training.context_tokens:,} tokens"),
        ("tokens of this stage", _count(facts, "tokens")),
        ("loss at the end", _number(facts.get("final_loss"))),
        ("batch", f"{training.batch_sequences:,} x {training.context_tokens:,} tokens"),
        ("learning rate", f"{training.learning_rate:g} to {training.minimum_learning_rate:g}, cosine"),
        ("seed", str(stage.seed)),
        ("code", str((record.get("code") or {}).get("commit") or (record.get("code") or {}).get("sha256"))),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [sidewinder]
---

# {study.study}: {stage.title}

Trained by Sidewinder in a controlled comparison of architectures. It loads with `AutoModelForCausalLM` and
`AutoTokenizer`, without custom code. Documents in training begin after `</s>`, so begin a prompt with it.

| | |
|---|---|
{table}
{_parent(stage)}
## Data

| source | share of tokens | language | licence |
|---|---|---|---|
{_sources(study)}
"""


def _parent(stage: Stage) -> str:
    return f"\nIt continues {stage.parent.title}.\n" if stage.parent else ""


def _sources(study: Study) -> str:
    lines = []
    for name, share in study.weights.items():
        source = study.sources.get(name)
        language = source.language if source else "synthetic"
        licence = (source.licence if source else None) or "not stated"
        lines.append(f"| {name} | {share:.1%} | {language} | {licence} |")
    return "\n".join(lines)


def _count(facts: dict[str, Any], key: str) -> str:
    return f"{facts[key]:,}" if isinstance(facts.get(key), int) else "not recorded"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "not recorded"
