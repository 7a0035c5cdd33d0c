"""How well a tokenizer spells the study's text, and whether it gives it back."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sidewinder.corpus.shards import documents
from sidewinder.graph import HELDOUT, Graph
from sidewinder.tokenizer import Tokenizer

MEASURED_BYTES = 1_000_000  # Of the held-out text of each source.


def fertility(graph: Graph, tokenizer: Tokenizer) -> dict[str, Any]:
    """Facts: tokens a byte of every source's held-out text and of every language in it, and round trips.

    A document's language is its own where it has one, else that of its source. Says on stderr where documents are not
    given back by decoding their ids.
    """
    by_source: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    by_language: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    documents, changed = 0, []
    for source in graph.study.weights:
        for name, language, text in _measured(graph, source):
            ids = tokenizer.encode(text)
            documents += 1
            if tokenizer.decode(ids) != text:
                changed.append(f"{source} {name}")
            for counts in (by_source[source], *([by_language[language]] if language else [])):
                counts[0] += len(ids)
                counts[1] += len(text.encode())
    if changed:
        print(
            f"tokenizer: {len(changed)} of {documents} held-out documents are not given back by decoding their ids, "
            f"first {changed[0]}; look-ups need text that comes back",
            file=sys.stderr,
        )
    tokens_per_byte = _rates(by_source)
    return {
        "tokens_per_byte": tokens_per_byte,
        "bytes_per_token": {source: round(1 / rate, 4) for source, rate in tokens_per_byte.items() if rate},
        "tokens_per_byte_by_language": _rates(by_language),
        "round_trip_documents": documents,
        "round_trip_changed": len(changed),
    }


def _measured(graph: Graph, source: str) -> Iterator[tuple[str, str | None, str]]:
    """(id, language, text) of held-out documents up to MEASURED_BYTES."""
    config = graph.study.sources.get(source)
    size_bytes = 0
    for document in documents(graph, source, HELDOUT):
        language = document.get("language") or (config.language if config else None)
        yield str(document.get("id")), language, document["text"]
        size_bytes += len(document["text"])
        if size_bytes >= MEASURED_BYTES:
            return


def _rates(counts: dict[str, list[int]]) -> dict[str, float]:
    """Tokens a byte, where there was any text."""
    return {name: round(tokens / size_bytes, 5) for name, (tokens, size_bytes) in counts.items() if size_bytes}
