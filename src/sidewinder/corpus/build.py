"""Builds one source: reads, cleans, deduplicates and splits it into training shards and held-out documents.

    results/corpus/<source>-<fingerprint>/   train-00000.jsonl.gz …  heldout-00000.jsonl.gz  record.json

Run as `sidewinder corpus <source>`. The files are the same for any number of workers, and a run that was interrupted
goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from sidewinder.config.corpus import PackagesReader, Source
from sidewinder.config.study import LOOKUP
from sidewinder.corpus import readers
from sidewinder.corpus.execute import execute
from sidewinder.corpus.facts import corpus_facts
from sidewinder.corpus.files import LocalFiles, file_artifacts, local_files
from sidewinder.corpus.lookup import build_lookup
from sidewinder.corpus.packages import package_artifacts, package_files
from sidewinder.corpus.pipeline import HELDOUT, DropReserved, DropShort, Gather, Scatter
from sidewinder.corpus.shards import shard_path
from sidewinder.errors import DataError
from sidewinder.graph import Graph
from sidewinder.record import Artifact, Job, code, digest

MOST_TASKS = 32  # A file is read by one task; a task costs 16 ms, and more of them only even out the workers' load.


def build_source(graph: Graph, source: str, workers: int) -> None:
    """Makes the corpus folder of a source with `workers` processes.

    Raises DataError where the source cannot be read, or leaves no training or no held-out document.
    """
    if source == LOOKUP:
        build_lookup(graph)
        return
    config = graph.study.sources[source]
    files, inputs = _inputs(source, config)
    folder, shards = graph.corpus(source), graph.shards(source)
    with Job(folder, "corpus", source, graph.source_configs[source], inputs) as job:
        if job.finished:
            return
        scratch = _scratch(folder, job)
        counts = _read(graph, source, files, scratch, workers)
        counts += _write(source, config, shards, scratch, workers)
        bad = _bad_lines(scratch)
        _report_bad(source, counts, bad)
        facts = corpus_facts(counts, shards, bad)
        _check_not_empty(source, config, counts, facts)
        for shard in shards:
            final = shard_path(folder, shard)
            shard_path(scratch / "shards", shard).replace(final)
            job.output(shard.partition("-")[0], final)
        job.facts |= facts
        shutil.rmtree(scratch)


def _inputs(source: str, config: Source) -> tuple[LocalFiles | list[str], list[Artifact]]:
    """The files to read (for packages: as JSON lines) and the artifacts that stand for them."""
    reader = config.reader
    try:
        if isinstance(reader, PackagesReader):
            found = package_files(reader.packages, reader.part)
            return [json.dumps(file.as_dict()) for file in found], package_artifacts(found)
        files = local_files(reader)
        return files, file_artifacts(source, files)
    except DataError as error:
        raise DataError(f"source {source}: {error}") from None
    except OSError as error:
        raise DataError(f"source {source}: {error}", remedy="make the file readable, or take it out") from None


def _scratch(folder: Path, job: Job) -> Path:
    """Work folder of exactly this work (configuration, inputs, code); those of other work are removed."""
    scratch = folder / f".scratch-{digest([job.identity, code()['sha256']])[:8]}"
    for other in folder.glob(".scratch-*"):
        if other != scratch:
            shutil.rmtree(other)
    for part in ("notes", "documents", "shards"):
        (scratch / part).mkdir(parents=True, exist_ok=True)
    return scratch


def _read(graph: Graph, source: str, files: LocalFiles | list[str], scratch: Path, workers: int) -> Counter[str]:
    """First pass: every file is read and cleaned, its documents scattered to their shards."""
    config = graph.study.sources[source]
    listed = list(files.paths) if isinstance(files, LocalFiles) else files
    (scratch / "files.txt").write_text("".join(f"{line}\n" for line in listed))
    shards = [shard for shard in graph.shards(source) if shard != HELDOUT]
    pipeline = [
        _reader(config, files, scratch),
        DropShort(config.minimum_characters),
        DropReserved(),
        Scatter(str(scratch / "documents"), shards, graph.study.heldout_share),
    ]
    tasks = max(1, min(len(listed), MOST_TASKS))
    return execute(f"{source} read", pipeline, scratch / "read", tasks=tasks, workers=workers)


def _reader(config: Source, files: LocalFiles | list[str], scratch: Path) -> PipelineStep:
    listing, notes = str(scratch / "files.txt"), str(scratch / "notes")
    reader = config.reader
    if isinstance(reader, PackagesReader):
        return readers.PackagesReader(reader.part, listing, notes)
    assert isinstance(files, LocalFiles)
    folder = str(files.folder)
    if reader.kind == "text":
        return readers.TextReader(folder, listing, notes)
    kind = readers.JsonlReader if reader.kind == "jsonl" else readers.ParquetReader
    return kind(folder, listing, notes, reader.text_key, reader.id_key)


def _write(source: str, config: Source, shards: list[str], scratch: Path, workers: int) -> Counter[str]:
    """Second pass: every shard is sorted, deduplicated and written."""
    gather = Gather(str(scratch / "documents"), str(scratch / "shards"), shards, config.deduplicate == "exact")
    folder = scratch / "write"
    # Not resumed: a finished shard may have been moved to its place, and deleted there, before the interruption.
    return execute(f"{source} write", [gather], folder, tasks=len(shards), workers=workers, resume=False)


def _bad_lines(scratch: Path) -> list[str]:
    """The first few unreadable lines of the source as `file:line: reason`."""
    named = [tuple(entry) for path in (scratch / "notes").glob("*.json") for entry in json.loads(path.read_text())]
    return [f"{file}:{line}: {reason}" for file, line, reason in sorted(named)[: readers.NAMED_BAD_LINES]]


def _report_bad(source: str, counts: Mapping[str, int], bad: list[str]) -> None:
    if bad:
        print(f"{source}: {counts['bad_documents']:,} unreadable lines or files skipped; the first:", file=sys.stderr)
        print("\n".join(f"  {line}" for line in bad), file=sys.stderr)


def _check_not_empty(source: str, config: Source, counts: Mapping[str, int], facts: dict[str, Any]) -> None:
    """Raises DataError, with all counts, where there is nothing to train on or nothing held out."""
    where = getattr(config.reader, "path", None) or ", ".join(getattr(config.reader, "packages", []))
    seen = (
        f"read {counts['read_documents']:,} documents, unreadable {counts['bad_documents']:,}, "
        f"shorter than {config.minimum_characters} characters {counts['short_documents']:,}, "
        f"with a reserved character {counts['reserved_documents']:,}, duplicates {counts['duplicate_documents']:,}"
    )
    named = "".join(f"\n  {line}" for line in facts["first_bad"][:3])
    if not facts["train_documents"]:
        raise DataError(
            f"source {source} ({where}) is empty: {seen}{named}",
            remedy=f"check sources.{source}.reader, or lower sources.{source}.minimum_characters",
        )
    if not facts["heldout_documents"]:
        raise DataError(
            f"source {source} ({where}) has no held-out document: {seen}, for training {facts['train_documents']:,}",
            remedy="raise heldout_share, or give the source more documents",
        )
