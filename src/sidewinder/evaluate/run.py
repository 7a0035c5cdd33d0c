"""One suite on one checkpoint as a job: scores.json, samples.parquet, and the record."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import torch

from sidewinder.config.suites import BitsPerByte, Harness, Needle, Phonebook, Suite
from sidewinder.evaluate import bits_per_byte, cloze, needle, phonebook
from sidewinder.evaluate.heldout import heldout_of
from sidewinder.evaluate.included import included_files
from sidewinder.evaluate.outcome import Outcome
from sidewinder.evaluate.presets import tasks
from sidewinder.evaluate.ranks import Ranks, join
from sidewinder.evaluate.samples import count_samples, write_samples
from sidewinder.evaluate.subject import Subject
from sidewinder.graph import Graph, Stage
from sidewinder.model.checkpoint import load_model
from sidewinder.record import RECORD, Artifact, Job, artifact, check, digest, outputs_of, write_atomically
from sidewinder.tokenizer import load
from sidewinder.train.device import prepare_inference

PARTS = ".parts"
"""Folder of what a killed suite goes on from, until it is finished."""
SCORES, SAMPLES = "scores.json", "samples.parquet"
VERSIONED = ("torch", "numpy", "sentencepiece", "faker")
MADE = 1  # Raised when our own tasks' samples or scores change meaning, so that parts kept from before are done again.


def evaluate(graph: Graph, stage: Stage, suite: str) -> None:
    """Runs a suite on the checkpoint of a stage, or does nothing where that is done.

    Raises EvaluationError where the suite cannot be run, or for a reason that can be mended not wholly, or a
    log-likelihood is not finite, CheckpointError or CorruptArtifact for damaged inputs.
    """
    ranks = join()
    if ranks.rank > 0:
        _assist(graph, stage, suite, ranks)
        return
    settings = graph.study.suites[suite]
    job = Job(
        folder=graph.evaluation(stage, suite),
        kind="evaluate",
        name=f"{stage.model_name}-s{stage.seed}/{stage.kind}-{stage.training.context_tokens}/{suite}",
        config={"suite": suite, **settings.identity},
        inputs=_inputs(graph, stage, settings),
    )
    with job:
        kept = _kept_as(graph, settings, job.inputs)
        ranks.told((kept, job.finished))
        if job.finished:
            return
        for entry in job.inputs:
            check(entry)
        outcome = _run(graph, stage, settings, job.folder, kept, ranks)
        outcome.versions |= {name: metadata.version(name) for name in VERSIONED}
        write_atomically(job.folder / SCORES, outcome.scores_text(suite, settings.kind))
        write_samples(job.folder / SAMPLES, outcome.samples, outcome.sample_files)
        job.facts = outcome.facts | {"samples": count_samples(job.folder / SAMPLES), "scores": len(outcome.scores)}
        job.output("scores", job.folder / SCORES)
        job.output("samples", job.folder / SAMPLES)
        if (job.folder / cloze.FILE).is_file():
            job.output("dataset", job.folder / cloze.FILE)
    shutil.rmtree(job.folder / PARTS, ignore_errors=True)


def _assist(graph: Graph, stage: Stage, suite: str, ranks: Ranks) -> None:
    """What the other processes of an evaluation do: their part of the batches; the first writes everything."""
    kept, finished = ranks.told(("", True))
    settings = graph.study.suites[suite]
    if not finished:
        _run(graph, stage, settings, graph.evaluation(stage, suite), kept, ranks)


def _kept_as(graph: Graph, settings: Suite, inputs: list[Artifact]) -> str:
    """What identifies the parts of a harness suite that are kept until it is finished.

    They serve other sets of tasks too, and another state of the data folder: each part tells what it read of that.
    Versions are the record's, which tells one of each library for all parts.
    """
    if not isinstance(settings, Harness):
        return ""
    taken = sorted({(entry.role, entry.sha256) for entry in inputs if entry.role != "data"})
    versions = {name: metadata.version(name) for name in (*VERSIONED, "lm-eval")}
    return digest([settings.unit_identity, bool(graph.study.data), taken, versions, MADE])


def subject_of(graph: Graph, stage: Stage, settings: Suite, ranks: Ranks) -> Subject:
    """The checkpoint of a stage, loaded where the stage was trained, in the precision it was trained in."""
    device = prepare_inference(stage.training)
    dtype = torch.bfloat16 if device.type == "cuda" and stage.training.precision == "bfloat16" else torch.float32
    model, info = load_model(stage.folder / "checkpoint", device, dtype)
    used = next(entry for entry in outputs_of(graph.tokenizer / RECORD) if entry.role == "tokenizer")
    Subject.check_tokenizer(stage.title, info, used.sha256)
    tokenizer = load(graph.tokenizer)
    heldout = heldout_of(graph) if reads_text(settings) else None
    return Subject(stage.title, model, info.context_tokens, tokenizer, heldout, ranks=ranks)


def reads_text(settings: Suite) -> bool:
    """Whether a suite reads held-out text of the study."""
    return isinstance(settings, BitsPerByte) or (isinstance(settings, Harness) and cloze.TASK in tasks(settings))


def _inputs(graph: Graph, stage: Stage, settings: Suite) -> list[Artifact]:
    made = outputs_of(stage.record)
    inputs = [entry for entry in made if entry.role in ("checkpoint", "model_config")]
    inputs += outputs_of(graph.tokenizer / RECORD)
    if isinstance(settings, Harness):
        inputs += [artifact("data", path) for path in graph.data_manifest]
        inputs += [artifact("task", path) for path in included_files(settings)]
    return inputs + (heldout_of(graph).artifacts if reads_text(settings) else [])


def _run(graph: Graph, stage: Stage, settings: Suite, folder: Path, kept: str, ranks: Ranks) -> Outcome:
    subject = subject_of(graph, stage, settings, ranks)
    if isinstance(settings, BitsPerByte):
        return bits_per_byte.run(subject, settings)
    if isinstance(settings, Phonebook):
        return phonebook.run(subject, settings)
    if isinstance(settings, Needle):
        return needle.run(subject, settings)
    from sidewinder.evaluate import harness  # lm-eval takes seconds to import, and no other suite needs it.

    data = Path(graph.study.data) if graph.study.data else None
    return harness.run(subject, settings, folder, data=data, identity=kept)
