"""A checkpoint as a folder that AutoModelForCausalLM and AutoTokenizer load offline, checked before it counts.

Everything is written into a hidden folder inside, loaded from there and compared with the checkpoint (logits in float32
on held-out text, token ids of held-out documents), then moved into place, the record last.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sidewinder.evaluate.heldout import Heldout, heldout_of
from sidewinder.export.tokenizer import write_tokenizer
from sidewinder.export.write import write_model
from sidewinder.graph import Graph, Stage
from sidewinder.model.checkpoint import ModelInfo, load_model
from sidewinder.model.lm import LanguageModel
from sidewinder.progress import Progress
from sidewinder.record import RECORD, Job, check, outputs_of

PART = ".part"
COMPARED_TOKENS = 1024  # Longest sequence whose logits are compared.
COMPARED_BYTES = 2_000_000  # Text of each source whose token ids are compared.


def export_checkpoint(graph: Graph, stage: Stage) -> None:
    """Writes the checkpoint of a stage in Hugging Face format, or does nothing where that is done.

    Raises ExportError where no class fits, or where what was written does not equal the checkpoint; CheckpointError
    or CorruptArtifact for damaged inputs.
    """
    heldout = heldout_of(graph)
    job = Job(
        folder=graph.export(stage),
        kind="export",
        name=f"{stage.model_name}-s{stage.seed}/{stage.kind}-{stage.training.context_tokens}/export",
        config={"format": "huggingface", "dtype": "float32", "compared_tokens": COMPARED_TOKENS},
        inputs=[*outputs_of(stage.record), *outputs_of(graph.tokenizer / RECORD), *heldout.artifacts],
    )
    with job:
        if not job.finished:
            for entry in job.inputs:
                check(entry)
            torch.set_num_threads(stage.training.threads)
            _export(graph, stage, job, heldout)


def _export(graph: Graph, stage: Stage, job: Job, heldout: Heldout) -> None:
    part = job.folder / PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with Progress(f"{stage.title} export", total=3, unit="step") as progress:
        model, info = load_model(stage.folder / "checkpoint")
        target = write_model(
            model, info, part, bos=_known(heldout.tokenizer.bos_id()), eos=_known(heldout.tokenizer.eos_id())
        )
        write_tokenizer(graph.tokenizer, part, context_tokens=info.context_tokens)
        progress.update(1, wrote=target.model_class)
        job.facts = _verify(part, model, info, heldout, progress)
    for path in sorted(part.iterdir()):
        path.replace(job.folder / path.name)
        job.output("export", job.folder / path.name)
    part.rmdir()
    job.facts["model_class"] = target.model_class


def _verify(
    folder: Path, model: LanguageModel, info: ModelInfo, heldout: Heldout, progress: Progress
) -> dict[str, Any]:
    """Facts of the comparison; raises ExportError where it fails."""
    from sidewinder.export.verify import compare_tokenizers, largest_logit_difference

    sequences = [_sequence(heldout, source, min(info.context_tokens, COMPARED_TOKENS)) for source in heldout.sources]
    difference = largest_logit_difference(folder, model, sequences)
    progress.update(1, largest_difference=f"{difference:.1e}")
    documents = [text for source in heldout.sources for text in _texts(heldout, source)]
    mismatches = compare_tokenizers(folder, heldout.tokenizer, documents)
    progress.update(1)
    return {
        "max_logit_difference": difference,
        "logit_sequences_checked": len(sequences),
        "tokenizer_documents_checked": len(documents),
        "tokenizer_mismatches": mismatches,
    }


def _known(token: int) -> int | None:
    """A token id, or None where the tokenizer has none."""
    return token if token >= 0 else None


def _sequence(heldout: Heldout, source: str, tokens: int) -> np.ndarray:
    """The first tokens of a source's held-out documents, end-of-document tokens included."""
    stream: list[np.ndarray] = []
    for document in heldout.documents(source):
        stream += [np.array([heldout.tokenizer.eos_id()]), document]
        if sum(map(len, stream)) >= tokens:
            break
    return np.concatenate(stream)[:tokens]


def _texts(heldout: Heldout, source: str) -> list[str]:
    """Held-out documents of a source up to COMPARED_BYTES."""
    texts, size = [], 0
    for document in heldout.documents(source):
        texts.append(heldout.tokenizer.decode(document.tolist()))
        size += len(texts[-1].encode())
        if size >= COMPARED_BYTES:
            break
    return texts
