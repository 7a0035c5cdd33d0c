"""Encodes much text: by gigatoken where that gives the ids of the tokenizer's own library, else by that library.

SentencePiece defines the ids of its models, and `tokenizers` those of a tokenizer.json. Before the fast way is taken,
both encode the same documents, those about to be encoded, and strings made to trip them; one difference, and the
library itself is used. The record says which it was.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from sidewinder.tokenizer import load, model_file
from sidewinder.tokenizer.fast import Gigatoken, Ids
from sidewinder.tokenizer.nasty import NASTY
from sidewinder.tokenizer.plain import Cutter, is_plain

CHECKED_DOCUMENTS, CHECKED_BYTES = 2_000, 8_000_000
GROUP_BYTES = 1_000_000  # Of documents that are compared at once.
SHOWN_TOKENS = 6


class Encoder:
    """`encode` gives the ids of many documents; `check` decides how, and must come first for the fast way.

    Several threads may encode at once. Raises CorruptArtifact where the tokenizer cannot be read.
    """

    def __init__(self, path: Path) -> None:
        path = model_file(Path(path))
        self.tokenizer = load(path)
        self.eos = int(self.tokenizer.eos_id())
        self._own = Tokenizers(self.tokenizer) if path.suffix == ".json" else SentencePiece(self.tokenizer)
        self._fast: Gigatoken | None = None
        self._path = path
        self._encode: Any = self._own
        self._cutter = Cutter(self.tokenizer) if path.suffix != ".json" and is_plain(path.read_bytes()) else None

    @property
    def name(self) -> str:
        """The library that encodes, with its version."""
        return str(self._encode.name)

    def check(
        self, documents: Iterable[bytes], most_documents: int = CHECKED_DOCUMENTS, most_bytes: int = CHECKED_BYTES
    ) -> dict[str, Any]:
        """Chooses the fast way where it gives equal ids on the first of these documents, and tells what was seen.

        {"documents": compared, "bytes": …, "equal": …, "differing": …, "first_difference": a sentence or None}, or
        {"unavailable": why}. Says on stderr where the fast way is not taken.
        """
        self._encode = self._own
        try:
            fast = Gigatoken(self._path, self.tokenizer)
        except (ImportError, ValueError) as error:
            print(f"{self.name} encodes: gigatoken cannot be used: {error}", file=sys.stderr)
            return {"unavailable": str(error)}
        seen = _compare(self._own, fast, self.tokenizer, [NASTY, *_groups(documents, most_documents, most_bytes)])
        if seen["differing"]:
            where = f"{seen['differing']} of {seen['documents']} documents differ, {seen['first_difference']}"
            print(f"{self.name} encodes, not {fast.name}: {where}", file=sys.stderr)
        else:
            self._encode = fast
        return {"compared_with": fast.name, **seen}

    def encode(self, texts: list[bytes]) -> Ids:
        """Ids of UTF-8 documents, without any control token: (all of them one after the other, how many of each)."""
        if self._cutter is None:
            ids, sizes = self._encode(texts)
            return ids, sizes
        parts = [self._cutter.parts(text) for text in texts]
        ids, sizes = self._encode([part for group in parts for part in group])
        if len(sizes) == len(texts):
            return ids, sizes
        ends = np.cumsum([0, *sizes])[np.cumsum([0, *map(len, parts)])]
        return ids, np.diff(ends)


class SentencePiece:
    """SentencePiece itself."""

    def __init__(self, tokenizer: Any) -> None:
        self.inner = tokenizer
        self.name = f"sentencepiece {metadata.version('sentencepiece')}"

    def __call__(self, texts: list[bytes]) -> Ids:
        return _joined(self.inner.encode(texts, return_type="numpy", num_threads=1))


class Tokenizers:
    """The `tokenizers` library of Hugging Face."""

    def __init__(self, tokenizer: Any) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # Threads are the caller's.
        self.inner = tokenizer
        self.name = f"tokenizers {metadata.version('tokenizers')}"

    def __call__(self, texts: list[bytes]) -> Ids:
        return _joined([np.array(ids, np.int32) for ids in self.inner.encode([text.decode() for text in texts])])


def _joined(encoded: list[np.ndarray]) -> Ids:
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    return (np.concatenate(encoded) if encoded else np.empty(0, np.int32)), sizes


def _groups(documents: Iterable[bytes], most_documents: int, most_bytes: int) -> Iterable[list[bytes]]:
    """The first documents, a few at a time."""
    group: list[bytes] = []
    size_bytes = total_bytes = 0
    for count, document in enumerate(documents):
        if count >= most_documents or total_bytes >= most_bytes:
            break
        group.append(document)
        size_bytes, total_bytes = size_bytes + len(document), total_bytes + len(document)
        if size_bytes >= GROUP_BYTES:
            yield group
            group, size_bytes = [], 0
    if group:
        yield group


def _compare(own: Any, fast: Any, tokenizer: Any, groups: Iterable[list[bytes]]) -> dict[str, Any]:
    """Counts of documents whose ids are equal and are not, and where the first that differs does."""
    documents = size_bytes = differing = 0
    first: str | None = None
    for texts in groups:
        (expected, expected_sizes), (found, sizes) = own(texts), fast(texts)
        documents, size_bytes = documents + len(texts), size_bytes + sum(map(len, texts))
        if np.array_equal(expected_sizes, sizes) and np.array_equal(expected, found):
            continue
        pairs = zip(_split(expected, expected_sizes), _split(found, sizes), strict=True)
        unlike = [pair for pair in pairs if not np.array_equal(*pair)]
        differing += len(unlike)
        first = first or _difference(tokenizer, *unlike[0])
    return {
        "documents": documents,
        "bytes": size_bytes,
        "equal": documents - differing,
        "differing": differing,
        "first_difference": first,
    }


def _split(ids: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    return np.split(ids, np.cumsum(sizes)[:-1])


def _difference(tokenizer: Any, expected: np.ndarray, found: np.ndarray) -> str:
    """`at token 7: 'ab' 'c' instead of 'a' 'bc'`."""
    shared = min(len(expected), len(found))
    unlike = np.flatnonzero(expected[:shared] != found[:shared])
    place = int(unlike[0]) if len(unlike) else shared
    shown = [
        " ".join(repr(tokenizer.id_to_piece(int(token))) for token in ids[place : place + SHOWN_TOKENS]) or "the end"
        for ids in (found, expected)
    ]
    return f"first at token {place}: {shown[0]} instead of {shown[1]}"
