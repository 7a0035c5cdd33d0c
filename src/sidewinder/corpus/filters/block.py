"""A block: one decision on every document, with counts of what went in, came out, was edited away and was dropped.

Documents and bytes in = out + dropped by reason (+ bytes edited away), always. Of what it drops, a block remembers for
each reason the few texts with the smallest hash, so that samples depend neither on order nor on the number of shards.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from datatrove.data import Document

SAMPLES, SAMPLE_CHARACTERS = 5, 400

# Whether a document stays, or why not: what the method `filter` of a datatrove block answers.
Decision = bool | tuple[bool, str]


@dataclass(order=True)
class Sample:
    """A dropped document: smallest hash first, and the first in the source among equal texts."""

    hash: str
    file: str
    index: int
    id: str
    text: str


@dataclass
class Dropped:
    """Documents dropped for one reason."""

    documents: int = 0
    bytes: int = 0
    samples: list[Sample] = field(default_factory=list)

    def count(self, document: Document, size_bytes: int) -> None:
        """Counts a dropped document and keeps it as a sample where its hash is among the smallest."""
        self.documents += 1
        self.bytes += size_bytes
        key = hashlib.blake2b(encoded(document.text), digest_size=16).hexdigest()
        if len(self.samples) == SAMPLES and key > self.samples[-1].hash:
            return
        file, index = str(document.metadata.get("file", "")), int(document.metadata.get("index", 0))
        self.remember(Sample(key, file, index, document.id, document.text[:SAMPLE_CHARACTERS]))

    def remember(self, sample: Sample) -> None:
        """Keeps a sample if it is among the first few different texts."""
        twin = next((other for other in self.samples if other.hash == sample.hash), None)
        if twin is not None and twin <= sample:
            return
        if twin is not None:
            self.samples.remove(twin)
        insort(self.samples, sample)
        del self.samples[SAMPLES:]


@dataclass
class Counts:
    """What a block did. Adding up those of several shards gives the source's."""

    block: str
    documents_in: int = 0
    bytes_in: int = 0
    documents_out: int = 0
    bytes_out: int = 0
    edited_documents: int = 0
    edited_bytes: int = 0
    """Bytes in minus bytes out of the documents that stayed."""
    dropped: dict[str, Dropped] = field(default_factory=dict)
    matched: Counter[str] = field(default_factory=Counter)
    """Decontamination: documents with an n-gram of each evaluation file."""

    def drop(self, reason: str, document: Document, size_bytes: int) -> None:
        self.dropped.setdefault(reason, Dropped()).count(document, size_bytes)

    def as_dict(self) -> dict[str, Any]:
        """For a record: reasons in alphabetic order."""
        numbers = {name: value for name, value in vars(self).items() if name not in ("dropped", "matched")}
        dropped = {
            reason: vars(self.dropped[reason]) | {"samples": [vars(sample) for sample in self.dropped[reason].samples]}
            for reason in sorted(self.dropped)
        }
        return numbers | {"dropped": dropped, "matched": dict(sorted(self.matched.items()))}


class Block:
    """Applies a decision to a stream of documents and counts; one block serves one stream at a time."""

    def __init__(self, name: str, decide: Callable[[Document], Decision], counts: Counts | None = None) -> None:
        """`decide` may shorten or change the text; what it drops without a reason gets the block's name as one."""
        self.name, self.decide, self.counts = name, decide, counts or Counts(name)

    def run(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents that are kept, in their order; what is dropped or changed is counted on the way."""
        counts, decide = self.counts, self.decide
        for document in documents:
            text, size_bytes = document.text, byte_length(document.text)
            counts.documents_in += 1
            counts.bytes_in += size_bytes
            answer = decide(document)
            kept, reason = answer if isinstance(answer, tuple) else (answer, None)
            if not kept:
                document.text = text
                counts.drop(reason or self.name, document, size_bytes)
                continue
            if document.text is not text and document.text != text:
                counts.edited_documents += 1
                counts.edited_bytes += size_bytes - byte_length(document.text)
                size_bytes = byte_length(document.text)
            counts.documents_out += 1
            counts.bytes_out += size_bytes
            yield document


def merged(shards: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Adds up the counts (`Counts.as_dict()`) of the blocks of every shard, block by block in their order."""
    totals: dict[str, Counts] = {}
    for shard in shards:
        for entry in shard:
            _add(totals.setdefault(entry["block"], Counts(entry["block"])), entry)
    return [total.as_dict() for total in totals.values()]


def _add(total: Counts, entry: dict[str, Any]) -> None:
    for name, value in entry.items():
        if isinstance(value, int):
            setattr(total, name, getattr(total, name) + value)
    total.matched.update(entry["matched"])
    for reason, dropped in entry["dropped"].items():
        into = total.dropped.setdefault(reason, Dropped())
        into.documents += dropped["documents"]
        into.bytes += dropped["bytes"]
        for sample in dropped["samples"]:
            into.remember(Sample(**sample))


def encoded(text: str) -> bytes:
    """UTF-8, lone surrogates included, so that no text can stop the count."""
    return text.encode("utf-8", "surrogatepass")


def byte_length(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(encoded(text))
