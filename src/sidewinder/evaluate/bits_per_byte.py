"""Held-out cross-entropy in bits per byte of UTF-8 text, which compares across tokenizers.

A document is read as in training: after the end-of-document token of the one before it. It is cut into windows of the
checkpoint's context that do not overlap: each token is predicted once, and a window's first input is the last token
of the window before. The end-of-document token at a document's end is not predicted, as in lm-eval's rolling
log-likelihood: the score is about the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from sidewinder.config.suites import BitsPerByte
from sidewinder.errors import EvaluationError
from sidewinder.evaluate.heldout import Heldout
from sidewinder.evaluate.outcome import Outcome, Score, ratio_standard_error
from sidewinder.evaluate.scoring import Item, score_items
from sidewinder.evaluate.subject import Subject
from sidewinder.progress import Progress

METRIC, BLEND = "bits_per_byte", "blend"


@dataclass
class Document:
    """A held-out document, or the first part of one, with what it cost."""

    source: str
    place: int
    tokens: int
    bytes: int
    windows: list[Item]
    nats: float = field(default=math.nan)


def run(subject: Subject, suite: BitsPerByte) -> Outcome:
    """Bits per byte of every source, and their mean over the shares of the text sources; `task` names which."""
    heldout = subject.heldout
    assert heldout is not None
    documents = {source: cut(subject, heldout, source, suite.tokens_per_source) for source in heldout.sources}
    total = sum(document.tokens for chosen in documents.values() for document in chosen)
    silent = subject.ranks.rank > 0
    with Progress(f"{subject.title} bits per byte", total=total, unit="token", silent=silent) as progress:
        for chosen in documents.values():
            measure(subject, chosen, progress.update)
    outcome = Outcome(scores=[_score(source, chosen) for source, chosen in documents.items()])
    outcome.scores.append(_blend(outcome.scores, heldout.shares))
    outcome.samples = [_sample(document) for chosen in documents.values() for document in chosen]
    outcome.facts = {"tokens": total, "start_token": subject.start}
    return outcome


def cut(subject: Subject, heldout: Heldout, source: str, limit: int) -> list[Document]:
    """The first `limit` tokens of a source's held-out documents; the last document may be cut short."""
    documents: list[Document] = []
    left = limit
    for place, tokens in enumerate(heldout.documents(source)):
        kept = [int(token) for token in tokens[:left]]
        if not kept:
            continue
        size = sum(len(subject.pieces[token]) for token in kept)
        name = f"document {place} of source {source}"
        documents.append(Document(source, place, len(kept), size, windows(subject, kept, name)))
        left -= len(kept)
        if not left:
            break
    if not sum(document.bytes for document in documents):
        raise EvaluationError(f"the held-out documents of {source} hold no text", remedy="look at its corpus folder")
    return documents


def windows(subject: Subject, tokens: list[int], name: str) -> list[Item]:
    """Sequences of at most the context plus one tokens, of which all but the first are scored."""
    stream, context = [subject.start, *tokens], subject.context_tokens
    starts = range(0, len(tokens), context)
    parts = [stream[start : start + context + 1] for start in starts]
    return [
        Item(f"{name}, from token {start}", part, [(1, len(part))]) for start, part in zip(starts, parts, strict=True)
    ]


def measure(subject: Subject, documents: list[Document], advance: Callable[[int], None]) -> None:
    """Fills in the nats of the documents."""
    items = [item for document in documents for item in document.windows]
    scores = iter(score_items(subject.model, items, advance=advance, ranks=subject.ranks))
    for document in documents:
        document.nats = -math.fsum(next(scores)[0].log_likelihood for _ in document.windows)


def _score(source: str, documents: list[Document]) -> Score:
    nats, sizes = [document.nats for document in documents], [float(document.bytes) for document in documents]
    error = ratio_standard_error(nats, sizes)
    error = error / math.log(2) if error is not None else None
    return Score(source, METRIC, math.fsum(nats) / math.fsum(sizes) / math.log(2), error, len(documents))


def _blend(scores: list[Score], shares: dict[str, float]) -> Score:
    """Mean of the text sources' scores, weighted by their shares of the training text."""
    chosen = [(shares[score.task], score) for score in scores if score.task in shares]
    total = math.fsum(share for share, _ in chosen)
    value = math.fsum(share * score.value for share, score in chosen) / total
    squares = [(share / total * score.stderr) ** 2 for share, score in chosen if score.stderr is not None]
    error = math.sqrt(math.fsum(squares)) if len(squares) == len(chosen) else None
    return Score(BLEND, METRIC, value, error, sum(score.n for _, score in chosen))


def _sample(document: Document) -> dict[str, object]:
    return {
        "task": document.source,
        "sample": document.place,
        "tokens": document.tokens,
        "bytes": document.bytes,
        "nats": document.nats,
        "metrics": {METRIC: document.nats / document.bytes / math.log(2)} if document.bytes else {},
    }
