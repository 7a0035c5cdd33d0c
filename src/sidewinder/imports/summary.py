"""What was imported, as lines for a person."""

from __future__ import annotations

from sidewinder.model.checkpoint import ModelInfo
from sidewinder.model.count import count_parameters


def summary(info: ModelInfo) -> str:
    """System and class, pattern, exact parameters, context, vocabulary, types of the weights, notes."""
    counts = count_parameters(info.config, info.vocab_size)
    dtypes = sorted({tensor["dtype"] for tensor in info.tensors.values()})
    lines = [
        ("from", ", ".join(info.extra[key] for key in ("imported_from", "model_class") if key in info.extra)),
        ("pattern", info.config.layers),
        ("parameters", f"{counts.total:,} ({counts.non_embedding:,} without embeddings)"),
        ("context", f"{info.context_tokens:,} tokens"),
        ("vocabulary", f"{info.vocab_size:,}"),
        ("weights", ", ".join(dtypes)),
        *(("note", note) for note in info.extra.get("notes", [])),
    ]
    return "\n".join(f"  {name:<12}{value}" for name, value in lines)
