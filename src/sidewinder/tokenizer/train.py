"""Makes the study's tokenizer: trains one on a sample of the blend, or copies one that exists; and measures it.

    results/tokenizer/bpe-<vocabulary>-<fingerprint>/   tokenizer.model (or tokenizer.json)  record.json

Run as `sidewinder tokenizer`. In a trained one digits are split, nothing is normalised, spaces are kept, and a
character without a piece of its own is spelled in bytes: `decode(encode(x)) == x`. A newline is always <0x0A>.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

import sentencepiece

from sidewinder.config.tokenizer import Tokenizer
from sidewinder.errors import ConfigError
from sidewinder.graph import Graph
from sidewinder.memory import check_memory
from sidewinder.record import RECORD, Job, outputs_of
from sidewinder.tokenizer import MODEL, load, model_file
from sidewinder.tokenizer.bring import copy_tokenizer, write_bytes
from sidewinder.tokenizer.fast import prepare
from sidewinder.tokenizer.fertility import fertility
from sidewinder.tokenizer.sample import Sample

UNKNOWN, BEGIN, END = 0, 1, 2
THREADS = 4  # Written into the model: a constant keeps the bytes the same on any machine. BPE pieces ignore it.
TOO_HIGH = re.compile(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)")
TOO_LOW = re.compile(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)")


def train_tokenizer(graph: Graph) -> None:
    """Makes the tokenizer file, or copies it where the study names one.

    Raises ConfigError where the sample cannot fill the vocabulary, or it cannot hold it; where the machine lacks the
    memory; and where a named tokenizer changed since the study was read, or has no end of document.
    """
    config = graph.study.tokenizer
    inputs = [entry for source in graph.study.weights for entry in outputs_of(graph.corpus(source) / RECORD)]
    with Job(graph.tokenizer, "tokenizer", graph.tokenizer.name, graph.tokenizer_config, inputs) as job:
        if job.finished:
            return
        if config.path is None:
            sample = Sample(graph)
            check_memory(sum(sample.parts.values()))
            write_bytes(graph.tokenizer / MODEL, train(sample, config))
            job.output("tokenizer", graph.tokenizer / MODEL)
            job.facts |= {"sample_bytes": sample.taken_bytes}
        else:
            for role, path in copy_tokenizer(config, graph.tokenizer).items():
                job.output(role, path)
        tokenizer = load(graph.tokenizer)
        prepare(model_file(graph.tokenizer), tokenizer)
        job.facts |= {"vocab_size": tokenizer.get_piece_size()} | fertility(graph, tokenizer)


def train(sample: Sample, config: Tokenizer) -> bytes:
    """Trains on the sample's lines and returns the model file's content."""
    try:
        return train_pieces(sample, config.vocab_size, config.character_coverage)
    except RuntimeError as error:
        if sample.failure:
            raise sample.failure from None
        raise _explained(str(error), sample, config) from error


def train_pieces(lines: Iterable[str], pieces: int, coverage: float, *, exactly: bool = True) -> bytes:
    """A SentencePiece model file of so many pieces (or, not `exactly`, at most).

    The rarest characters, beyond the share `coverage` of the text, are spelled in bytes. Raises SentencePiece's
    RuntimeError where the lines do not give the pieces.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        hard_vocab_limit=exactly,
        character_coverage=coverage,
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
    return model.getvalue()


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
