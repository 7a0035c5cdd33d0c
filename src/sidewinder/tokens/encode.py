"""Encodes one shard of a source into tokens, in one pass.

    results/tokens/<source>-<fingerprint>/<shard>/   tokens.bin  tokens.idx  record.json

Run as `sidewinder tokens --into …`. Text is read and encoded in batches, and documents are shuffled within windows of
tokens, so that memory does not grow with the shard; counts and digests are taken while writing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sidewinder.corpus.shards import documents, duplicates_path, promised, text_path
from sidewinder.errors import CorruptArtifact
from sidewinder.graph import HELDOUT, Graph
from sidewinder.progress import Progress
from sidewinder.record import RECORD, Artifact, Job, check, outputs_of
from sidewinder.tokenizer.encoder import CHECKED_BYTES, Encoder
from sidewinder.tokens.indexed import IndexedWriter, token_dtype
from sidewinder.tokens.window import Window

TOKENS = "tokens"
BATCH_BYTES = 2 << 20
FIRST = "train-00000"
CHECKED_SHARE = 400  # Of its text a shard compares this part, which takes some 2 % of its time: SentencePiece is slow.
LEAST_CHECKED_BYTES = {True: 1 << 20, False: 1 << 17}  # In the first shard of a source, and in the others.

Given = TypeVar("Given")
Made = TypeVar("Made")


def encode_shard(graph: Graph, source: str, shard: str, threads: int = 1) -> None:
    """Makes tokens.bin and tokens.idx of a shard.

    Raises CorruptArtifact where the shard or the tokenizer is damaged, or holds other documents than its record says.
    """
    folder, vocab_size = graph.tokens(source, shard), graph.study.tokenizer.vocab_size
    text = text_path(graph, source, shard)
    config = {"source": source, "shard": shard, "vocab_size": vocab_size, "dtype": str(token_dtype(vocab_size))}
    with Job(folder, "tokens", f"{source}/{shard}", config, _inputs(graph, source, shard)) as job:
        if job.finished:
            return
        wanted = promised(graph, source)[shard]
        encoder = Encoder(graph.tokenizer)
        checked = encoder.check(_texts(graph, source, shard), most_bytes=_checked_bytes(shard, wanted[1]))
        with Progress(f"{source}/{shard} tokens", total=wanted[1], unit="bytes") as progress:
            texts, name = _texts(graph, source, shard), f"{source}/{shard}"
            outputs, counts = write_tokens(
                encoder,
                texts,
                folder / TOKENS,
                name,
                shuffle=shard != HELDOUT and not graph.study.in_order(source),
                threads=threads,
                progress=progress,
            )
        _check_complete(text, counts, wanted)
        job.outputs += outputs
        job.facts |= counts | {"tokens_per_byte": round(counts["tokens"] / max(1, counts["text_bytes"]), 5)}
        job.facts |= {"encoder": encoder.name, "encoder_check": checked}


def write_tokens(
    encoder: Encoder,
    texts: Iterable[bytes],
    prefix: Path,
    name: str,
    *,
    shuffle: bool,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[list[Artifact], dict[str, int]]:
    """Encodes documents into prefix.bin and prefix.idx.

    `name`, a source and a shard, seeds their shuffle. Returns the files, with the
    digests taken while they were written, and counts of documents, bytes and tokens (end-of-document tokens included).
    """
    counts = {"documents": 0, "text_bytes": 0, "tokens": 0}
    dtype = token_dtype(encoder.tokenizer.get_piece_size())
    window = Window(name, encoder.eos, dtype, shuffle=shuffle)

    def encoded(batch: list[bytes]) -> Any:
        return batch, *encoder.encode(batch)

    with IndexedWriter(prefix, dtype) as writer:
        for batch, ids, sizes in in_order(encoded, batches(texts), threads):
            size_bytes = sum(map(len, batch))
            counts["documents"] += len(batch)
            counts["text_bytes"] += size_bytes
            counts["tokens"] += len(ids) + len(batch)
            window.add(ids, sizes)
            if window.full:
                writer.add_block(*window.take())
            if progress:
                progress.update(size_bytes, tokens=f"{counts['tokens']:,}")
        writer.add_block(*window.take())
    return writer.artifacts, counts


def batches(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Groups documents until they have BATCH_BYTES."""
    batch: list[bytes] = []
    size_bytes = 0
    for text in texts:
        batch.append(text)
        size_bytes += len(text)
        if size_bytes >= BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def in_order(function: Callable[[Given], Made], items: Iterable[Given], threads: int) -> Iterator[Made]:
    """Results in the order of the items; with several threads, while this one goes on reading a few items ahead."""
    if threads < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Made]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _texts(graph: Graph, source: str, shard: str) -> Iterator[bytes]:
    return (document["text"].encode() for document in documents(graph, source, shard))


def _checked_bytes(shard: str, size_bytes: int) -> int:
    """Text of a shard that the fast encoder is tried on."""
    return min(CHECKED_BYTES, max(LEAST_CHECKED_BYTES[shard == FIRST], size_bytes // CHECKED_SHARE))


def _inputs(graph: Graph, source: str, shard: str) -> list[Artifact]:
    """The shard's text, the list of what is left out, and the tokenizer, after a look at their sizes."""
    places = {str(text_path(graph, source, shard)), str(duplicates_path(graph, source, shard))}
    folder = graph.corpus(source)
    records = [folder / RECORD] if shard == HELDOUT else [folder / RECORD, folder / shard / RECORD]
    inputs = [entry for record in records for entry in outputs_of(record) if entry.path in places]
    inputs += outputs_of(graph.tokenizer / RECORD)
    for entry in inputs:
        check(entry)
    return inputs


def _check_complete(text: Path, counts: dict[str, int], wanted: tuple[int, int]) -> None:
    found = counts["documents"], counts["text_bytes"]
    if found != wanted:
        raise CorruptArtifact(
            f"{text} holds {found[0]:,} documents of {found[1]:,} bytes; "
            f"the source's record says {wanted[0]:,} of {wanted[1]:,}",
            remedy=f"delete {text.parent} and run the study again",
        )
