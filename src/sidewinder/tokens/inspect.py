"""Looks into token files: what a position says, which documents there are, whether the files are as they were written.

A path is a shard's folder, a prefix (or its .bin or .idx), or a blend.json or its folder. Positions and documents are
counted over the chosen shards in order, from 0. `show.py` prints what is found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from sidewinder.errors import CorruptArtifact, DataError
from sidewinder.record import RECORD, Artifact, check, file_digest, read_record
from sidewinder.tokenizer import Tokenizer, load, piece_bytes
from sidewinder.tokens.indexed import IndexedReader, bin_path, idx_path
from sidewinder.tokens.manifest import read_blend

BLEND, PREFIX = "blend.json", "tokens"
BEGINNING_TOKENS = 48  # Of a document that is listed.


@dataclass(frozen=True)
class Part:
    """One tokenized shard."""

    name: str
    prefix: Path
    promised: dict[str, Any] = field(default_factory=dict)
    """tokens, documents, sha256_bin, as far as a blend says."""

    @cached_property
    def reader(self) -> IndexedReader:
        return IndexedReader(self.prefix)


@dataclass
class TokenFiles:
    """The shards at a path, and the tokenizer that made them where it can be found."""

    parts: list[Part]
    tokenizer_file: Path | None
    tokenizer_sha256: str | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        found: Tokenizer | None = load(self.tokenizer_file) if self.tokenizer_file else None
        return found

    def summary(self) -> list[dict[str, Any]]:
        """Name, documents, tokens, type and size of every shard."""
        return [
            {
                "shard": part.name,
                "documents": len(part.reader),
                "tokens": part.reader.n_tokens,
                "dtype": part.reader.dtype.name,
                "bytes": part.reader.n_tokens * part.reader.dtype.itemsize,
                "longest_document_tokens": int(part.reader.sizes.max(initial=0)),
            }
            for part in self.parts
        ]

    def at(self, position: int, count: int) -> dict[str, Any]:
        """`count` tokens from a position on: ids, what each stands for, and the document that the first lies in.

        Raises DataError beyond the last token.
        """
        part, first, place = self._part([part.reader.n_tokens for part in self.parts], position, "position")
        document = part.reader.document_at(place)
        ids = part.reader.tokens[place : place + count]
        return {
            "position": position,
            "shard": part.name,
            "position_in_shard": place,
            "document": first + document,
            "position_in_document": place - part.reader.start(document),
            **self._decoded(ids),
        }

    def document(self, number: int, count: int | None = None) -> dict[str, Any]:
        """A document, or its first `count` tokens. Raises DataError beyond the last."""
        part, _, place = self._part([len(part.reader) for part in self.parts], number, "document")
        ids = part.reader[place]
        return {
            "document": number,
            "shard": part.name,
            "document_in_shard": place,
            "position_in_shard": part.reader.start(place),
            "tokens": len(ids),
            **self._decoded(ids if count is None else ids[:count]),
        }

    def documents(self, first: int, count: int) -> list[dict[str, Any]]:
        """Documents from `first` on with how they begin."""
        total = sum(len(part.reader) for part in self.parts)
        return [self.document(number, BEGINNING_TOKENS) for number in range(first, min(first + count, total))]

    def verify(self) -> list[dict[str, Any]]:
        """Compares every file with the digests and counts that its record, and the blend, hold.

        A line for each file: {"file", "sha256", "equal"}, `equal` None where nobody promised anything. Raises
        CorruptArtifact, naming all, where any differs.
        """
        found, wrong = [], []
        for part in self.parts:
            promised = _recorded(part)
            promised.setdefault(str(bin_path(part.prefix)), part.promised.get("sha256_bin"))
            for path in (bin_path(part.prefix), idx_path(part.prefix)):
                found.append(_verified(path, promised.get(str(path))))
            wrong += _miscounted(part)
        if self.tokenizer_file:
            found.append(_verified(self.tokenizer_file, self.tokenizer_sha256))
        wrong += [f"{entry['file']} has digest {entry['sha256'][:12]}…" for entry in found if entry["equal"] is False]
        if wrong:
            raise CorruptArtifact(
                "not as recorded:\n  " + "\n  ".join(wrong), remedy="delete their folders and run the study again"
            )
        return found

    def _part(self, sizes: list[int], place: int, what: str) -> tuple[Part, int, int]:
        """The shard that a place lies in, the number of its first document among all, and the place in it."""
        ends = list(accumulate(sizes))
        if not 0 <= place < (ends[-1] if ends else 0):
            raise DataError(
                f"there is no {what} {place:,}: there are {ends[-1] if ends else 0:,}", remedy="count from 0"
            )
        turn = int(np.searchsorted(ends, place, side="right"))
        before = sum(len(part.reader) for part in self.parts[:turn])
        return self.parts[turn], before, place - (ends[turn - 1] if turn else 0)

    def _decoded(self, ids: np.ndarray) -> dict[str, Any]:
        """Ids and, with a tokenizer, what they stand for; the end of a document is a token without text."""
        listed = ids.tolist()
        if self.tokenizer is None:
            return {"ids": listed}
        pieces = [_piece(self.tokenizer, token) for token in listed]
        raw = b"".join(
            piece_bytes(self.tokenizer, token) for token in listed if token < self.tokenizer.get_piece_size()
        )
        return {"ids": listed, "pieces": pieces, "text": raw.decode(errors="replace")}


def open_tokens(path: Path, shard: str = "", tokenizer: Path | None = None) -> TokenFiles:
    """The token files at a path; of a blend, the shards whose `source/shard` begins with `shard`.

    Raises DataError where there are none.
    """
    if (path / BLEND).is_file() or path.name == BLEND:
        found = _of_blend(path if path.name == BLEND else path / BLEND)
    else:
        found = _of_prefix(path)
    found.parts = [part for part in found.parts if part.name.startswith(shard)]
    if not found.parts:
        raise DataError(
            f"{path} has no shard that begins with {shard!r}", remedy="give a source, or source/train-00000"
        )
    if tokenizer:
        found.tokenizer_file, found.tokenizer_sha256 = tokenizer, None
    return found


def _of_blend(path: Path) -> TokenFiles:
    blend = read_blend(path)
    parts = [
        Part(f"{name}/{Path(entry['prefix']).parent.name}", entry["prefix"], entry)
        for name, source in blend["sources"].items()
        for entry in [*source["shards"], *source["heldout"]]
    ]
    about = blend.get("tokenizer")
    return TokenFiles(parts, path.parent / about["path"], about["sha256"]) if about else TokenFiles(parts, None)


def _of_prefix(path: Path) -> TokenFiles:
    prefix = path / PREFIX if path.is_dir() else path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    if not bin_path(prefix).is_file() and not idx_path(prefix).is_file():
        raise DataError(
            f"{path} is no tokenized shard and no blend: there is no {bin_path(prefix)}",
            remedy="name a folder or prefix with .bin and .idx, or a blend.json",
        )
    parts = [Part(prefix.parent.name if prefix.name == PREFIX else prefix.name, prefix)]
    record = prefix.parent / RECORD
    inputs = read_record(record)["inputs"] if record.is_file() else []
    for entry in inputs:
        if entry["role"] == "tokenizer" and Path(entry["path"]).is_file():
            return TokenFiles(parts, Path(entry["path"]), entry["sha256"])
    return TokenFiles(parts, None)


def _piece(tokenizer: Tokenizer, token: int) -> str:
    """A token as text: control tokens by their names, parts of characters as bytes."""
    if token >= tokenizer.get_piece_size():
        return f"[{token}]"
    if tokenizer.is_control(token) or tokenizer.is_unknown(token):
        return tokenizer.id_to_piece(token)
    raw = piece_bytes(tokenizer, token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in raw)


def _recorded(part: Part) -> dict[str, str | None]:
    """Digests by path as the shard's record has them; its folder may have moved since."""
    record = part.prefix.parent / RECORD
    outputs = [Artifact(**entry) for entry in read_record(record)["outputs"]] if record.is_file() else []
    return {str(part.prefix.parent / Path(entry.path).name): entry.sha256 for entry in outputs}


def _verified(path: Path, promised: str | None) -> dict[str, Any]:
    if not path.is_file():
        check(Artifact("tokens", str(path), promised or "", -1))
    sha256 = file_digest(path)
    return {"file": str(path), "sha256": sha256, "equal": None if promised is None else sha256 == promised}


def _miscounted(part: Part) -> list[str]:
    found = {"tokens": part.reader.n_tokens, "documents": len(part.reader)}
    return [
        f"{part.prefix} has {found[what]:,} {what}; the blend promises {part.promised[what]:,}"
        for what in found
        if part.promised.get(what, found[what]) != found[what]
    ]
