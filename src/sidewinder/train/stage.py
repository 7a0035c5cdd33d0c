"""What pretraining and extension share: the job, the processes, the data, the checkpoint and the facts of one stage."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from sidewinder.graph import Graph, Stage
from sidewinder.model import LanguageModel
from sidewinder.model.checkpoint import save_weights
from sidewinder.model.count import count_parameters
from sidewinder.record import Job, check, write_atomically
from sidewinder.tokens.loader import BlendLoader
from sidewinder.tokens.manifest import read_blend
from sidewinder.train.device import prepare_torch
from sidewinder.train.job import data_seed, stage_job
from sidewinder.train.loop import Trainer
from sidewinder.train.metrics import Metrics, read_metrics
from sidewinder.train.parallel.parallelize import parallelize
from sidewinder.train.parallel.weights import storing, whole_state
from sidewinder.train.parallel.world import World, join
from sidewinder.train.saves import drop_all, explained

Fill = Callable[[LanguageModel, Callable[[Tensor, Tensor], object]], None]
"""`fill(model, put)` gives every parameter its first value by `put(parameter, whole value)`."""


def run_stage(graph: Graph, stage: Stage, fill: Fill) -> None:
    """Trains one stage as a job, or does nothing where it is done.

    Every process of the stage's mesh calls it; the first one holds the job and writes the record. Raises
    CorruptArtifact for damaged inputs, ConfigError where the processes are not those of the mesh, and what Trainer.run
    raises. The resumable saves are deleted once the record is written: from then on the checkpoint holds the weights.
    """
    training = stage.training
    device = prepare_torch(training)
    with join(training.mesh, device, timeout_s=training.hang_timeout_s) as world:
        job = world.alone_first(lambda: stage_job(stage))
        with job if world.first else nullcontext(job):
            # The first process may wait for whoever makes the same stage, and reads all inputs.
            with world.patience():
                finished = world.alone_first(lambda: _finished(job))
            if not finished:
                _train(graph, stage, job, fill, world)
        if world.first:
            drop_all(stage.folder / "state")


def _finished(job: Job) -> bool:
    """Whether nothing is left to do; else the inputs are checked, digests included."""
    if not job.finished:
        for entry in job.inputs:
            check(entry, deep=True)
    return job.finished


def _train(graph: Graph, stage: Stage, job: Job, fill: Fill, world: World) -> None:
    training, blend = stage.training, stage.blend / "blend.json"
    manifest = read_blend(blend)
    vocab_size, device = int(manifest["vocab_size"]), prepare_torch(training)
    model = parallelize(stage.model, vocab_size, training, world, device)
    world.together(lambda: fill(model, storing(model, world)))
    loader = BlendLoader(
        blend,
        context_tokens=training.context_tokens,
        seed=data_seed(stage),
        total_sequences=training.sequences,
        packing=training.packing,
        documents=training.documents,
    )
    world.alone_first(lambda: loader.check_repeats(graph.study.repeat_at_most, stage.title))
    if world.first:
        for warning in loader.warnings():
            print(f"warning: {stage.title}: {warning}", file=sys.stderr)
    trainer = Trainer(stage.title, stage.folder, job.identity, model, loader, training, world, graph.study.study)
    trainer.run()
    weights = dict(whole_state(model, world))
    about = {"tokenizer_sha256": manifest["tokenizer"]["sha256"]}
    job.facts["data"] = loader.facts()
    world.alone_first(lambda: _leave(graph, stage, job, trainer, weights, about))


def _leave(
    graph: Graph, stage: Stage, job: Job, trainer: Trainer, weights: dict[str, Tensor], about: dict[str, str]
) -> None:
    """Writes the checkpoint and the configuration, and tells the job of them."""
    with explained(stage.folder):
        checkpoint = stage.folder / "checkpoint"
        context_tokens, vocab_size = stage.training.context_tokens, trainer.model.vocab_size
        save_weights(stage.model, vocab_size, weights, checkpoint, context_tokens=context_tokens, extra=about)
        config = stage.resolved() | {"study": graph.study.study}
        write_atomically(stage.folder / "config.json", json.dumps(config, indent=1))
    job.output("checkpoint", checkpoint / "model.safetensors")
    job.output("model_config", checkpoint / "model.json")
    job.output("metrics", trainer.journal.path)
    job.facts.update(_facts(stage, trainer, read_metrics(trainer.journal.path)))


def _facts(stage: Stage, trainer: Trainer, metrics: Metrics) -> dict[str, Any]:
    """Numbers for the catalog. `train_s` is the time of the steps that count, without repeated ones, saves, set-up."""
    training = stage.training
    counts = count_parameters(stage.model, trainer.model.vocab_size)
    train_s = sum(row["step_s"] for row in metrics.steps)
    return {
        "parameters": counts.total,
        "non_embedding_parameters": counts.non_embedding,
        "flops_per_token": trainer.engine.meter.flops_per_token,
        "steps": training.steps,
        "tokens": training.tokens,
        "final_loss": metrics.steps[-1]["loss"] if metrics.steps else None,
        "train_s": round(train_s, 3),
        "tokens_per_s": round(training.tokens / train_s, 1) if train_s else None,
        "data_seed": data_seed(stage),
        "attempts": metrics.attempts,
    }
