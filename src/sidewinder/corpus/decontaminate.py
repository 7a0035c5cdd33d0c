"""Finds training documents that share an n-gram of words with evaluation texts.

GPT-3's authors looked for overlaps of 13 words, lower case and without punctuation (arXiv 2005.14165, appendix C), and
cut a window out of the training document. Here the whole document is dropped: what surrounds a test item is often its
answer. An evaluation text too short for an n-gram is looked for whole. Nothing is spared for being common: the counts
of documents that matched each file show a text that is too common to be looked for.

An n-gram is the sum of its words' hashes, each times a multiplier of its place, in 64-bit arithmetic: the sums of all
lengths up to the longest come from one pass.

Shapes: W words of a document, T n-grams of the evaluation texts of one length, F files.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
from datatrove.data import Document

from sidewinder.config.filters import Decontaminate
from sidewinder.corpus.compressed import decompressed
from sidewinder.corpus.filters.block import Block, Counts, Decision, encoded
from sidewinder.corpus.filters.words import unspaced_apart
from sidewinder.errors import DataError

TABLE_BITS = 22  # A document's n-grams are first looked up in a table of bits; few come through by chance.

_NOT_A_WORD = re.compile(r"[^\w\s]|_")
_ASCII = [chr(code) for code in range(128)]
_ASCII_SPACES = bytes(32 if character.isspace() else ord(character) for character in _ASCII) + bytes(128)
_ASCII_PUNCTUATION = bytes(
    ord(character) for character in _ASCII if not character.isalnum() and not character.isspace()
)
_MULTIPLIERS = np.random.default_rng(2005_14165).integers(0, 2**63, 100, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def normalised(text: str) -> list[bytes]:
    """Words in lower case without punctuation, in UTF-8; letters of scripts without spaces are words of their own."""
    if text.isascii():
        return text.lower().encode().translate(_ASCII_SPACES, _ASCII_PUNCTUATION).split()
    words = unspaced_apart(_NOT_A_WORD.sub("", text.lower())).split()
    return encoded(" ".join(words)).split(b" ") if words else []


def evaluation_texts(path: Path, keys: list[str] | None) -> Iterator[str]:
    """Texts of a file: those of every JSON line, or the paragraphs of a text file.

    Raises DataError, with file and line, where it cannot be read.
    """
    kind = path.name.removesuffix(".gz").removesuffix(".zst")
    line = 0
    try:
        with path.open("rb", buffering=0) as stored, decompressed(stored, path.name) as stream:
            if not kind.endswith((".jsonl", ".json")):
                yield from re.split(r"\n\s*\n", stream.read().decode())
                return
            for content in stream:
                line += 1
                if content.strip():
                    yield from _strings(orjson.loads(content), keys, keys is None)
    except Exception as error:  # Every decompressor has errors of its own.
        raise DataError(
            f"decontaminate.files: cannot read {path}{f', line {line}' if line else ''}: {error}",
            remedy="one JSON value a line in .jsonl (.gz, .zst), else UTF-8 text; mend the file or take it out",
        ) from error


def _strings(value: Any, keys: list[str] | None, wanted: bool) -> Iterator[str]:
    """All texts below a JSON value; with keys, those at or below one of them."""
    if isinstance(value, str):
        if wanted:
            yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _strings(entry, keys, wanted or key in (keys or ()))
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry, keys, wanted)


class Contamination:
    """The n-grams of evaluation files, and the decision on a document.

    Memory: 16 bytes an n-gram, and 0.5 MB a length for the table. Raises DataError where a file cannot be read or holds
    nothing long enough.
    """

    def __init__(self, config: Decontaminate) -> None:
        self.config = config
        self.files = list(dict.fromkeys(config.files))
        self.shortest = min(config.shortest, config.ngram)
        grams: dict[int, list[tuple[np.ndarray, int]]] = defaultdict(list)
        for place, file in enumerate(self.files):
            for length, sums in self._of_file(Path(file)).items():
                grams[length].append((sums, place))
        self.tables = {length: _Table(parts) for length, parts in sorted(grams.items())}
        self.counts = Counts("decontaminate")

    def block(self) -> Block:
        """A block that drops documents with an n-gram of a file, by the first such file in the order of the list."""
        return Block("decontaminate", self.decide, self.counts)

    def decide(self, document: Document) -> Decision:
        """True, or False with the first file that the document shares an n-gram with; counts all such files."""
        matches = self.matches(document.text)
        if not matches:
            return True
        names = [self.files[place] for place in sorted(matches)]
        self.counts.matched.update(names)
        return False, f"contaminated: {names[0]}"

    def matches(self, text: str) -> set[int]:
        """Places in the list of files of those that share an n-gram with the text."""
        found: set[int] = set()
        for length, sums_W in _sums(_hashes(normalised(text)), set(self.tables)):
            found |= self.tables[length].files(sums_W)
        return found

    def _of_file(self, path: Path) -> dict[int, np.ndarray]:
        """Different n-grams of a file by their length in words."""
        sums: dict[int, list[np.ndarray]] = defaultdict(list)
        for text in evaluation_texts(path, self.config.keys):
            hashes_W = _hashes(normalised(text))
            length = min(len(hashes_W), self.config.ngram)
            if length >= self.shortest:
                sums[length].extend(found for _, found in _sums(hashes_W, {length}))
        if not sums:
            raise DataError(
                f"decontaminate.files: {path} holds no text of {self.shortest} or more words",
                remedy="name the right keys in decontaminate.keys, lower decontaminate.shortest, or take the file out",
            )
        return {length: np.unique(np.concatenate(parts)) for length, parts in sums.items()}


class _Table:
    """n-grams of one length: sorted sums_T with their files_T, and the table of bits that most look-ups end at."""

    def __init__(self, parts: list[tuple[np.ndarray, int]]) -> None:
        sums = np.concatenate([sums for sums, _ in parts])
        files = np.concatenate([np.full(len(sums), place) for sums, place in parts])
        order = np.argsort(sums, kind="stable")
        self.sums_T, self.files_T = sums[order], files[order]
        self.table = np.zeros(2**TABLE_BITS, bool)
        self.table[self.sums_T >> np.uint64(64 - TABLE_BITS)] = True

    def files(self, sums_W: np.ndarray) -> set[int]:
        """Files with one of the sums."""
        near = sums_W[self.table[sums_W >> np.uint64(64 - TABLE_BITS)]]
        starts, ends = np.searchsorted(self.sums_T, near, "left"), np.searchsorted(self.sums_T, near, "right")
        return {
            int(place)
            for start, end in zip(starts, ends, strict=True)
            if start < end
            for place in self.files_T[start:end]
        }


def _hashes(words: list[bytes]) -> np.ndarray:
    """hashes_W of words."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, words), np.uint64, len(words))


def _sums(hashes_W: np.ndarray, lengths: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(n, sums of all n-grams) for each of some lengths that fit."""
    sums = np.zeros(len(hashes_W), np.uint64)
    for length in range(1, min(len(hashes_W), max(lengths, default=0)) + 1):
        count = len(hashes_W) - length + 1
        sums = sums[:count] + hashes_W[length - 1 :] * _MULTIPLIERS[length - 1]
        if length in lengths:
            yield length, sums
