"""What pretraining and extension share: the job, the data, the checkpoint and the facts of one training stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

from sidewinder.graph import Graph, Stage
from sidewinder.model import LanguageModel
from sidewinder.model.checkpoint import save_model
from sidewinder.model.count import count_parameters, flops_per_token
from sidewinder.record import RECORD, Artifact, Job, check, digest, outputs_of, write_atomically
from sidewinder.tokens.loader import BlendLoader
from sidewinder.tokens.manifest import read_blend
from sidewinder.train.loop import Trainer
from sidewinder.train.metrics import Metrics, read_metrics
from sidewinder.train.saves import explained


def run_stage(graph: Graph, stage: Stage, inputs: list[Artifact], first: Callable[[int], LanguageModel]) -> None:
    """Trains one stage as a job, or does nothing where it is done.

    `inputs` are upstream artifacts besides the blend's; `first(vocab_size)` gives the model at step 0. Raises
    CorruptArtifact for damaged inputs, and what Trainer.run raises. The resumable saves are deleted once the record
    is written: from then on the checkpoint holds the weights.
    """
    job = Job(
        folder=stage.folder,
        kind=stage.kind,
        name=f"{stage.model_name}-s{stage.seed}/{stage.kind}-{stage.training.context_tokens}",
        config=stage.resolved(),
        inputs=[*outputs_of(graph.blend / RECORD), *inputs],
    )
    with job:
        if not job.finished:
            for entry in job.inputs:
                check(entry, deep=True)
            _train(graph, stage, job, first)
    shutil.rmtree(stage.folder / "state", ignore_errors=True)


def data_seed(stage: Stage) -> int:
    """Seed of a stage's data order: the same for all models of a study seed, another for every stage."""
    return int(digest(["data", stage.seed, stage.kind, stage.training.context_tokens])[:12], 16)


def _train(graph: Graph, stage: Stage, job: Job, first: Callable[[int], LanguageModel]) -> None:
    blend, training = graph.blend / "blend.json", stage.training
    vocab_size = int(read_blend(blend)["vocab_size"])
    loader = BlendLoader(
        blend,
        context_tokens=training.context_tokens,
        batch_sequences=training.batch_sequences,
        seed=data_seed(stage),
        total_sequences=training.steps * training.batch_sequences,
    )
    trainer = Trainer(stage.title, stage.folder, job.identity, first(vocab_size), loader, training)
    trainer.run()
    with explained(stage.folder):
        checkpoint = stage.folder / "checkpoint"
        save_model(trainer.model, checkpoint, context_tokens=training.context_tokens)
        config = stage.resolved() | {"study": graph.study.study}
        write_atomically(stage.folder / "config.json", json.dumps(config, indent=1))
    job.output("checkpoint", checkpoint / "model.safetensors")
    job.output("model_config", checkpoint / "model.json")
    job.output("metrics", trainer.metrics_path)
    job.facts.update(_facts(stage, vocab_size, read_metrics(trainer.metrics_path)))


def _facts(stage: Stage, vocab_size: int, metrics: Metrics) -> dict[str, Any]:
    """Numbers for the catalog. `train_s` is the time of the steps that count, without repeated ones, saves, set-up."""
    training = stage.training
    counts = count_parameters(stage.model, vocab_size)
    train_s = sum(row["step_s"] for row in metrics.steps)
    tokens = training.steps * training.tokens_per_step
    return {
        "parameters": counts.total,
        "non_embedding_parameters": counts.non_embedding,
        "flops_per_token": flops_per_token(stage.model, vocab_size, training.context_tokens),
        "steps": training.steps,
        "tokens": tokens,
        "final_loss": metrics.steps[-1]["loss"] if metrics.steps else None,
        "train_s": round(train_s, 3),
        "tokens_per_s": round(tokens / train_s, 1) if train_s else None,
        "data_seed": data_seed(stage),
        "attempts": metrics.attempts,
    }
