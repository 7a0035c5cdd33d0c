"""A small results folder, written through the real Job and Graph, whose every number is known.

Two models (`plain`, `mixed`), one seed, one extension of `mixed`, two suites. Losses, scores and counts below are what
the tests of the catalog and of the report expect to find again.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sidewinder.config.load import parse_study
from sidewinder.evaluate.samples import write_samples
from sidewinder.graph import Graph, Stage
from sidewinder.record import RECORD, Artifact, Job, outputs_of

SHARD = "train-00000"
PACKAGE = Artifact("package", "somepackage==1.2", "ab" * 32, 9000)
LOSSES = {"plain": [4.0, 3.0, 2.5, 2.25], "mixed": [4.0, 2.75, 2.25, 2.0]}
EXTENSION_LOSSES = [2.125, 1.875]
PARAMETERS = {"plain": (2000, 1000), "mixed": (2100, 1100)}
SPEED = {"plain": 1000.0, "mixed": 800.0}
BITS = {"plain": {"english": 2.5, "blend": 2.5}, "mixed": {"english": 2.25, "blend": 2.25}}
# exact match by (model, trained context) and prompt length
EXACT = {
    ("plain", 64): {32: 0.75, 64: 0.25},
    ("mixed", 64): {32: 1.0, 64: 0.5, 128: 0.25},
    ("mixed", 128): {32: 1.0, 64: 0.75, 128: 0.5},
}
LEFT_OUT = {"256": "beyond 2 x the context of 64 tokens", "512": "beyond 2 x the context of 64 tokens"}
DOCUMENT_BYTES = (10, 20, 30, 40, 100)
LOGIT_DIFFERENCE = 2.5e-6


def study_values(results: Path, **changes: Any) -> dict[str, Any]:
    """The study as parsed YAML; `changes` replace top-level keys."""
    small = {"hidden_size": 16, "attention": {"heads": 2, "kv_heads": 1, "head_size": 8}, "mlp": {"size": 32}}
    return {
        "study": "small",
        "results": str(results),
        "sources": {"english": {"reader": {"kind": "text", "path": "."}}},
        "blend": {"english": 1.0},
        "tokenizer": {"vocab_size": 300, "sample_bytes": 4800},
        "models": {
            "plain": small | {"pattern": "*-"},
            "mixed": small | {"pattern": "M-", "mamba2": {"state_size": 8, "head_size": 8, "groups": 1, "chunk": 16}},
        },
        "training": {
            "context_tokens": 64,
            "batch_sequences": 2,
            "budget_tokens": 512,
            "learning_rate": 1e-3,
            "minimum_learning_rate": 1e-4,
        },
        "extensions": [
            {
                "context_tokens": 128,
                "models": ["mixed"],
                "batch_sequences": 1,
                "budget_tokens": 256,
                "learning_rate": 5e-4,
                "minimum_learning_rate": 5e-5,
            }
        ],
        "suites": {
            "heldout": {"kind": "bits_per_byte"},
            "phonebook": {"kind": "phonebook", "lengths_tokens": [32, 64, 128], "beyond": 2},
        },
        "evaluate": ["heldout", "phonebook"],
    } | changes


def graph_of(values: dict[str, Any]) -> Graph:
    return Graph(parse_study(values))


def fill(graph: Graph) -> None:
    """Every job of the study; jobs that an earlier call finished are left as they are."""
    write(graph.results / "study.json", graph.study.model_dump_json())
    fill_text(graph)
    for stage in graph.stages:
        train(graph, stage)
        for suite in graph.study.evaluate:
            evaluate(graph, stage, suite)
        if graph.study.export:
            export(graph, stage)


def fill_text(graph: Graph) -> None:
    """Corpus, tokenizer, tokens and blend."""
    folder = graph.corpus("english")
    with Job(folder / SHARD, "corpus", f"english/{SHARD}", {"shard": SHARD}, [PACKAGE]) as job:
        if not job.finished:
            job.output("text", write(folder / SHARD / "text.jsonl.zst", "text for training"))
            job.output("heldout", write(folder / SHARD / "heldout.jsonl.zst", "text to hold out"))
    inputs = outputs(folder / SHARD, "heldout")
    with Job(folder, "deduplicate", "english", graph.source_configs["english"], inputs) as job:
        if not job.finished:
            job.output("heldout", write(folder / "heldout-00000.jsonl.zst", "text held out"))
            job.output("summary", write(folder / "summary.json", "{}"))
            job.facts |= {
                "steps": [
                    {
                        "block": "read",
                        "documents_in": 12,
                        "documents_out": 11,
                        "bytes_in": 1300,
                        "bytes_out": 1250,
                        "dropped": {"unreadable": {"documents": 1, "bytes": 50, "samples": []}},
                    },
                    {
                        "block": "length",
                        "documents_in": 11,
                        "documents_out": 9,
                        "bytes_in": 1250,
                        "bytes_out": 1150,
                        "dropped": {"short": {"documents": 2, "bytes": 100, "samples": [{"id": "a", "text": "Hm."}]}},
                    },
                ],
                "train_documents": 8,
                "train_bytes": 1000,
                "heldout_documents": 1,
                "heldout_bytes": 150,
            }
    inputs = outputs(folder / SHARD, "text") + outputs(folder, "summary")
    with Job(graph.tokenizer, "tokenizer", graph.tokenizer.name, graph.tokenizer_config, inputs) as job:
        if not job.finished:
            job.output("tokenizer", write(graph.tokenizer / "tokenizer.model", "pieces"))
            job.facts |= {"vocab_size": 300, "tokens_per_byte": {"english": 0.5}}
    for shard, tokens in (("train-00000", 400), ("heldout-00000", 50)):
        _encode(graph, shard, tokens)
    _write_blend(graph)


def _encode(graph: Graph, shard: str, tokens: int) -> None:
    folder = graph.tokens("english", shard)
    source = graph.corpus("english")
    text = outputs(source / SHARD, "text") if shard == SHARD else outputs(source, "heldout")
    with Job(folder, "tokens", f"english/{shard}", {"shard": shard}, text + outputs(graph.tokenizer)) as job:
        if not job.finished:
            job.output("bin", write(folder / "tokens.bin", f"bin of {shard}"))
            job.output("idx", write(folder / "tokens.idx", f"idx of {shard}"))
            job.facts |= {"tokens": tokens, "documents": 8, "text_bytes": 1000}


def _write_blend(graph: Graph) -> None:
    shards = [entry for shard in graph.shards("english") for entry in outputs(graph.tokens("english", shard))]
    with Job(graph.blend, "tokens", "blend", {"weights": graph.study.weights}, shards) as job:
        if not job.finished:
            content = {"vocab_size": 300, "sources": {"english": {"weight": 1.0, "shards": [], "heldout": []}}}
            job.output("blend", write(graph.blend / "blend.json", json.dumps(content)))


def train(graph: Graph, stage: Stage, *, shift: float = 0.0) -> None:
    """A finished stage; `shift` is added to its losses."""
    parent = outputs(stage.parent.folder, "checkpoint") if stage.parent else []
    name = f"{stage.model_name}-s{stage.seed}/{stage.kind}-{stage.training.context_tokens}"
    with Job(stage.folder, stage.kind, name, stage.resolved(), outputs(graph.blend) + parent) as job:
        if job.finished:
            return
        losses = LOSSES[stage.model_name] if stage.kind == "pretrain" else EXTENSION_LOSSES
        tokens = stage.training.tokens_per_step
        rows: list[dict[str, Any]] = [{"event": "start", "from_step": 0, "code": "c0de", "time": 1000.0}]
        rows += [
            step_row(step, loss + shift, tokens, SPEED[stage.model_name]) for step, loss in enumerate(losses, start=1)
        ]
        rows.append({"event": "end", "step": len(losses), "time": 1010.0})
        write(stage.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        write(stage.folder / "config.json", json.dumps(stage.resolved()))
        job.output("checkpoint", write(stage.folder / "checkpoint" / "model.safetensors", f"weights {stage.folder}"))
        job.output("model_config", write(stage.folder / "checkpoint" / "model.json", f"{{}} {stage.folder}"))
        job.output("metrics", stage.folder / "metrics.jsonl")
        total, inner = PARAMETERS[stage.model_name]
        job.facts |= {
            "parameters": total,
            "non_embedding_parameters": inner,
            "flops_per_token": 6 * inner,
            "steps": len(losses),
            "tokens": len(losses) * tokens,
            "final_loss": losses[-1] + shift,
            "data": {"packing": "concatenate", "lengths": {"32": 0.25, "64": 0.75}},
            "train_s": len(losses) * tokens / SPEED[stage.model_name],
            "tokens_per_s": SPEED[stage.model_name],
            "attempts": [{"started_at": 1000.0, "from_step": 0, "code": "c0de"}],
        }


def step_row(step: int, loss: float, tokens_per_step: int, tokens_per_s: float = 1000.0) -> dict[str, Any]:
    return {
        "event": "step",
        "step": step,
        "tokens": step * tokens_per_step,
        "loss": loss,
        "learning_rate": 1e-3,
        "tokens_per_s": tokens_per_s,
        "step_s": tokens_per_step / tokens_per_s,
        "memory_bytes": 1_000_000,
        "time": 1000.0 + step,
    }


def evaluate(graph: Graph, stage: Stage, suite: str, *, shift: float = 0.0) -> None:
    """A finished suite; `shift` is added to its scores."""
    folder, context = graph.evaluation(stage, suite), stage.training.context_tokens
    name = f"{stage.model_name}-s{stage.seed}/{stage.kind}-{context}/{suite}"
    inputs = outputs(stage.folder, "checkpoint", "model_config") + outputs(graph.blend)
    with Job(folder, "evaluate", name, {"suite": suite}, inputs) as job:
        if job.finished:
            return
        kind = graph.study.suites[suite].kind
        content = {"suite": suite, "kind": kind, "versions": {"suite": "1"}}
        scores = _bits(stage) if kind == "bits_per_byte" else _exact(stage)
        content["scores"] = [score | {"value": score["value"] + shift} for score in scores]
        job.output("scores", write(folder / "scores.json", json.dumps(content)))
        samples = _documents(stage, shift) if kind == "bits_per_byte" else _questions(stage, shift)
        write_samples(folder / "samples.parquet", samples)
        job.output("samples", folder / "samples.parquet")
        if suite == "phonebook":
            job.facts["lengths_left_out"] = LEFT_OUT if context == 64 else {}


def _bits(stage: Stage) -> list[dict[str, Any]]:
    return [
        {"task": task, "metric": "bits_per_byte", "value": value, "stderr": 0.125, "n": 5, "context_tokens": None}
        for task, value in BITS[stage.model_name].items()
    ]


def _exact(stage: Stage) -> list[dict[str, Any]]:
    exact = EXACT[stage.model_name, stage.training.context_tokens]
    return [
        {
            "task": "phonebook",
            "metric": "exact_match",
            "variant": "standard",
            "value": value,
            "stderr": 0.0625,
            "n": 16,
            "context_tokens": length,
        }
        for length, value in exact.items()
    ]


def _documents(stage: Stage, shift: float) -> list[dict[str, Any]]:
    """Five documents whose nats over their bytes are the score, but whose mean rate is not."""
    bits = BITS[stage.model_name]["english"] + shift
    rest = {"plain": (8.0, -4.0, 2.0, -5.0, -1.0), "mixed": (6.0, -5.0, 1.0, -3.0, 1.0)}[stage.model_name]
    sized = [(size, bits * size + extra) for size, extra in zip(DOCUMENT_BYTES, rest, strict=True)]
    return [
        {
            "task": "english",
            "sample": place,
            "bytes": size,
            "nats": cost * math.log(2),
            "metrics": {"bits_per_byte": cost / size},
        }
        for place, (size, cost) in enumerate(sized)
    ]


def _questions(stage: Stage, shift: float) -> list[dict[str, Any]]:
    """Four questions about each of four books; the first books are remembered best, and of each its last entries."""
    order = sorted(((book, entry) for book in range(4) for entry in range(4)), key=lambda at: 1.5 * at[0] - at[1])
    exact = EXACT[stage.model_name, stage.training.context_tokens]
    return [
        {
            "task": "phonebook",
            "variant": "standard",
            "context_tokens": length,
            "name": f"book {book} of {length} tokens",
            "prompt": f"Book {book} of {length} tokens, entry {entry}",
            "position": entry / 3,
            "digits": 4,
            "digits_right": 4 if right else book % 2,
            "metrics": {"exact_match": float(right)},
        }
        for length, value in exact.items()
        for book in range(4)
        for entry in range(4)
        for right in [(book, entry) in order[: round(16 * (value + shift))]]
    ]


def export(graph: Graph, stage: Stage) -> None:
    folder, context = graph.export(stage), stage.training.context_tokens
    name = f"{stage.model_name}-s{stage.seed}/{stage.kind}-{context}/export"
    inputs = outputs(stage.folder, "checkpoint") + outputs(graph.tokenizer)
    with Job(folder, "export", name, {"format": "huggingface"}, inputs) as job:
        if not job.finished:
            job.output("export", write(folder / "config.json", "{}"))
            job.output("export", write(folder / "model.safetensors", f"exported {stage.folder}"))
            job.facts |= {"max_logit_difference": LOGIT_DIFFERENCE, "model_class": "SomeForCausalLM"}
            job.facts["tokenizer_mismatches"] = 0


def outputs(folder: Path, *roles: str) -> list[Artifact]:
    return [entry for entry in outputs_of(folder / RECORD) if not roles or entry.role in roles]


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path
