"""`sidewinder models`: pattern, exact parameters, training FLOPs and cache bytes of every model of a study."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from sidewinder.config import Study
from sidewinder.model.count import cache_bytes, count_parameters, flops_per_token


def contexts_of(study: Study, name: str) -> list[int]:
    """Context lengths (tokens) that a model is trained at, in the order of the ladder."""
    longer = [extension.context_tokens for extension in study.extensions if name in extension.models]
    return [study.training_of(name).context_tokens, *longer]


def describe_models(study: Study) -> list[dict[str, Any]]:
    """One mapping a model; FLOPs are of training on one token, cache bytes of decoding in bf16 with fp32 states."""
    vocab_size = study.tokenizer.vocab_size
    described = []
    for name in study.models:
        model = study.models[name].architecture()
        counts, cache = count_parameters(model, vocab_size), cache_bytes(model)
        described.append(
            {
                "model": name,
                "pattern": model.layers,
                "layers": len(model.layers),
                "parameters": counts.total,
                "non_embedding_parameters": counts.non_embedding,
                "parameters_by_kind": counts.by_kind,
                "training_flops_per_token": {
                    str(context): flops_per_token(model, vocab_size, context) for context in contexts_of(study, name)
                },
                "cache_bytes": asdict(cache),
                "training_tokens": study.training_of(name).budget_tokens,
            }
        )
    return described


def models_table(described: list[dict[str, Any]]) -> Table:
    """The same for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", style="bold", no_wrap=True)
    table.add_column("pattern", overflow="fold", min_width=16)
    for title in ("parameters", "non-embedding", "by kind", "train GFLOP/token", "cache/token", "cache/sequence"):
        table.add_column(title, justify="right", overflow="fold")
    for row in described:
        kinds = [f"{kind} {count:,}" for kind, count in row["parameters_by_kind"].items()]
        flops = [f"{context}: {value / 1e9:,.4g}" for context, value in row["training_flops_per_token"].items()]
        table.add_row(
            row["model"],
            row["pattern"],
            f"{row['parameters']:,}",
            f"{row['non_embedding_parameters']:,}",
            "\n".join(kinds),
            "\n".join(flops),
            f"{row['cache_bytes']['per_token']:,} B",
            f"{row['cache_bytes']['per_sequence']:,} B",
            end_section=True,
        )
    return table
