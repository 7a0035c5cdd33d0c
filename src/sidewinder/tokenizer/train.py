"""Trains the study's tokenizer on a sample of the blend, and measures how well it spells each source.

    results/tokenizer/bpe-<vocabulary>-<fingerprint>/   tokenizer.model  record.json

Run as `sidewinder tokenizer`. Digits are split, nothing is normalised, spaces are kept as they are, and a character
without a piece of its own is spelled in bytes: `decode(encode(x)) == x`. A newline is always the byte piece <0x0A>.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import SentencePieceProcessor

from sidewinder.config.tokenizer import Tokenizer
from sidewinder.corpus.pipeline import HELDOUT
from sidewinder.corpus.shards import read_shard, shard_path
from sidewinder.errors import ConfigError
from sidewinder.graph import Graph
from sidewinder.record import RECORD, Job, outputs_of
from sidewinder.tokenizer import MODEL, load
from sidewinder.tokenizer.sample import Sample

UNKNOWN, BEGIN, END = 0, 1, 2
THREADS = 4  # Written into the model: a constant keeps the bytes the same on any machine. BPE pieces ignore it.
MEASURED_BYTES = 1_000_000  # Held-out text of each source that fertility is measured on.
TOO_HIGH = re.compile(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)")
TOO_LOW = re.compile(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)")


def train_tokenizer(graph: Graph) -> None:
    """Makes tokenizer.model. Raises ConfigError where the sample cannot fill the vocabulary, or it cannot hold it."""
    config = graph.study.tokenizer
    inputs = [entry for source in graph.source_configs for entry in outputs_of(graph.corpus(source) / RECORD)]
    with Job(graph.tokenizer, "tokenizer", graph.tokenizer.name, graph.tokenizer_config, inputs) as job:
        if job.finished:
            return
        sample = Sample(graph)
        model = train(sample, config)
        path = graph.tokenizer / MODEL
        _write(path, model)
        job.output("tokenizer", path)
        tokenizer = load(path)
        job.facts |= {"vocab_size": tokenizer.get_piece_size(), "sample_bytes": sample.taken_bytes}
        job.facts |= fertility(graph, tokenizer)


def train(sample: Sample, config: Tokenizer) -> bytes:
    """Trains on the sample's lines and returns the model file's content."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type="bpe",
            vocab_size=config.vocab_size,
            hard_vocab_limit=True,
            character_coverage=config.character_coverage,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=1 << 24,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            pad_id=-1,
            num_threads=THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        if sample.failure:
            raise sample.failure from None
        raise _explained(str(error), sample, config) from error
    return model.getvalue()


def fertility(graph: Graph, tokenizer: SentencePieceProcessor) -> dict[str, Any]:
    """Tokens a byte of every source's held-out text, and whether every document came back from its tokens."""
    tokens_per_byte: dict[str, float] = {}
    documents = changed = 0
    for source in graph.source_configs:
        tokens = size_bytes = 0
        for document in read_shard(shard_path(graph.corpus(source), HELDOUT)):
            ids = tokenizer.encode(document["text"])
            documents += 1
            changed += tokenizer.decode(ids) != document["text"]
            tokens, size_bytes = tokens + len(ids), size_bytes + len(document["text"].encode())
            if size_bytes >= MEASURED_BYTES:
                break
        tokens_per_byte[source] = round(tokens / size_bytes, 5)
    bytes_per_token = {source: round(1 / value, 4) for source, value in tokens_per_byte.items()}
    return {
        "tokens_per_byte": tokens_per_byte,
        "bytes_per_token": bytes_per_token,
        "round_trip_documents": documents,
        "round_trip_changed": changed,
    }


def _explained(message: str, sample: Sample, config: Tokenizer) -> ConfigError:
    """SentencePiece's failure in terms of config.yaml."""
    key = f"tokenizer.vocab_size: {config.vocab_size:,} pieces"
    taken = f"a sample of {sum(sample.taken_bytes.values()):,} bytes"
    if found := TOO_HIGH.search(message):
        most = int(found[1])
        return ConfigError(
            f"{key} are more than {taken} gives; the largest possible is {most:,}",
            remedy=f"set tokenizer.vocab_size to at most {most}, raise tokenizer.sample_bytes, or give more text",
        )
    if found := TOO_LOW.search(message):
        least = int(found[1])
        return ConfigError(
            f"{key} are fewer than the bytes and characters that must have one; the smallest possible is {least:,}",
            remedy=f"set tokenizer.vocab_size to at least {least}, or lower tokenizer.character_coverage "
            f"({config.character_coverage:g}): characters beyond it are spelled in bytes",
        )
    return ConfigError(f"{key} could not be trained on {taken}: {message}", remedy="change the tokenizer's settings")


def _write(path: Path, content: bytes) -> None:
    """Writes beside the final place, flushes, renames."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
