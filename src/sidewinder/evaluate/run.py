"""One suite on one checkpoint as a job: scores.json, samples.jsonl, and the record."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import torch

from sidewinder.config.suites import BitsPerByte, Harness, Needle, Phonebook, Suite
from sidewinder.evaluate import bits_per_byte, cloze, needle, phonebook
from sidewinder.evaluate.heldout import heldout_of
from sidewinder.evaluate.outcome import Outcome
from sidewinder.evaluate.subject import Subject
from sidewinder.graph import Graph, Stage
from sidewinder.model.checkpoint import load_model
from sidewinder.record import RECORD, Artifact, Job, check, outputs_of, write_atomically
from sidewinder.tokenizer import load
from sidewinder.train.device import prepare_torch

SCORES, SAMPLES = "scores.json", "samples.jsonl"
VERSIONED = ("torch", "numpy", "sentencepiece", "faker")


def evaluate(graph: Graph, stage: Stage, suite: str) -> None:
    """Runs a suite on the checkpoint of a stage, or does nothing where that is done.

    Raises EvaluationError where the suite cannot be run or a log-likelihood is not finite, CheckpointError or
    CorruptArtifact for damaged inputs.
    """
    settings = graph.study.suites[suite]
    job = Job(
        folder=graph.evaluation(stage, suite),
        kind="evaluate",
        name=f"{stage.model_name}-s{stage.seed}/{stage.kind}-{stage.training.context_tokens}/{suite}",
        config={"suite": suite, **settings.model_dump()},
        inputs=_inputs(graph, stage, settings),
    )
    with job:
        if job.finished:
            return
        for entry in job.inputs:
            check(entry)
        outcome = _run(subject_of(graph, stage, settings), settings, job.folder)
        outcome.versions |= {name: metadata.version(name) for name in VERSIONED}
        job.facts = outcome.facts | {"samples": len(outcome.samples), "scores": len(outcome.scores)}
        write_atomically(job.folder / SCORES, outcome.scores_text(suite, settings.kind))
        write_atomically(job.folder / SAMPLES, outcome.samples_text())
        job.output("scores", job.folder / SCORES)
        job.output("samples", job.folder / SAMPLES)
        if (job.folder / cloze.FILE).is_file():
            job.output("dataset", job.folder / cloze.FILE)


def subject_of(graph: Graph, stage: Stage, settings: Suite) -> Subject:
    """The checkpoint of a stage, loaded where the stage was trained, in the precision it was trained in."""
    device = prepare_torch(stage.training)
    dtype = torch.bfloat16 if device.type == "cuda" and stage.training.precision == "bfloat16" else torch.float32
    model, info = load_model(stage.folder / "checkpoint", device, dtype)
    tokenizer = load(graph.tokenizer)
    heldout = heldout_of(graph) if reads_text(settings) else None
    return Subject(stage.title, model, info.context_tokens, tokenizer, heldout)


def reads_text(settings: Suite) -> bool:
    """Whether a suite reads held-out text of the study."""
    return isinstance(settings, BitsPerByte) or (isinstance(settings, Harness) and cloze.TASK in settings.tasks)


def _inputs(graph: Graph, stage: Stage, settings: Suite) -> list[Artifact]:
    made = outputs_of(stage.record)
    inputs = [entry for entry in made if entry.role in ("checkpoint", "model_config")]
    inputs += outputs_of(graph.tokenizer / RECORD)
    return inputs + (heldout_of(graph).artifacts if reads_text(settings) else [])


def _run(subject: Subject, settings: Suite, folder: Path) -> Outcome:
    if isinstance(settings, BitsPerByte):
        return bits_per_byte.run(subject, settings)
    if isinstance(settings, Phonebook):
        return phonebook.run(subject, settings)
    if isinstance(settings, Needle):
        return needle.run(subject, settings)
    from sidewinder.evaluate import harness  # lm-eval takes seconds to import, and no other suite needs it.

    return harness.run(subject, settings, folder)
