"""Sequences of a blend in training order: a pure function of seed and place, with no state to save or lose.

Sequence i of a run takes its source from the schedule; if it is the k-th sequence of that source, it is the one at
place p(k) of the source's endless row of sequences, where p shuffles those of an epoch (`tokens.stream`). Inputs and
targets overlap by all but one token, so that every token of a stream is predicted exactly once.

B sequences of a batch, L tokens of context, M = L + 1.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from sidewinder.config.packing import LongDocuments, Packing
from sidewinder.errors import CorruptArtifact, DataError
from sidewinder.tokens.index import Index, index_of
from sidewinder.tokens.lengths import BINS, named
from sidewinder.tokens.manifest import bytes_per_token, read_blend
from sidewinder.tokens.schedule import Schedule
from sidewinder.tokens.shard_index import Layout
from sidewinder.tokens.store import Shard, Store, check_shards, index_folder
from sidewinder.tokens.stream import InOrder, PackedStream, SourceStream, Stream

IGNORED = -100
"""Target that is not predicted."""
LONG = " long"
"""Ends the name of a source's stream of long documents."""


class BlendLoader:
    """Random access to the sequences that one stage trains on.

    With `packing` documents, or with long `documents` to read more of, it first makes an index, or waits for it, where
    no earlier loader has. Raises CorruptArtifact, naming the file, where blend.json cannot be read, a shard is missing,
    truncated or altered, or a source has no tokens.
    """

    def __init__(
        self,
        blend_json: Path,
        context_tokens: int,
        seed: int,
        total_sequences: int,
        packing: Packing = "concatenate",
        documents: LongDocuments | None = None,
    ) -> None:
        self.context_tokens, self.total_sequences = context_tokens, total_sequences
        self.packing, self.documents = packing, documents
        blend_json, self._seed = Path(blend_json), seed
        blend = read_blend(blend_json)
        self.eos = int(blend["eos"])
        self._dtype, self._folder = np.dtype(blend["dtype"]), index_folder(blend_json)
        sources = {name: entry for name, entry in blend["sources"].items() if entry["weight"]}
        shards = {name: _shards(blend_json, name, entry) for name, entry in sources.items()}
        check_shards(blend_json, [shard for listed in shards.values() for shard in listed], self._dtype.itemsize)
        self.bytes_per_token = bytes_per_token(blend)
        self.without_long: list[str] = []
        self.streams: list[Stream] = []
        self._shares: list[float] = []
        self._lengths: list[np.ndarray | None] = []
        for name, entry in sources.items():
            self._add(name, shards[name], entry)
        offset = hashlib.blake2b(f"schedule/{seed}".encode(), digest_size=8).digest()
        self.schedule = Schedule(self._shares, int.from_bytes(offset))
        for stream, count in zip(self.streams, self.schedule.counts(total_sequences), strict=True):
            if sources[stream.name.removesuffix(LONG)].get("in_order"):
                stream.places = InOrder(stream.sequences, count)

    def _add(self, name: str, shards: list[Shard], entry: dict[str, Any]) -> None:
        """Adds the streams of a source: of all its documents, of the long ones, or of both."""
        store, weight, long_share = Store(shards, self._dtype), entry["weight"], 0.0
        if self.documents:
            long = self._index(name, shards, self.documents.minimum_tokens)
            if long.tokens.sum():
                long_share = self.documents.long_share
                self._add_stream(name + LONG, store, long, weight * long_share, long.lengths)
            else:
                self.without_long.append(name)
        if long_share < 1:
            whole = self._index(name, shards, 1) if self.packing == "documents" else None
            lengths = np.array(entry["lengths"]) if "lengths" in entry else None
            self._add_stream(name, store, whole, weight * (1 - long_share), whole.lengths if whole else lengths)

    def _index(self, name: str, shards: list[Shard], minimum_tokens: int) -> Index:
        context_tokens = self.context_tokens if self.packing == "documents" else 0
        return index_of(self._folder, name, shards, Layout(self.packing, context_tokens, minimum_tokens))

    def _add_stream(
        self, name: str, store: Store, index: Index | None, share: float, lengths: np.ndarray | None
    ) -> None:
        stream: Stream
        if index is not None and self.packing == "documents":
            stream = PackedStream(name, store, self._seed, self.context_tokens, index, self.eos)
        else:
            stream = SourceStream(name, store, self._seed, self.context_tokens, index)
        self.streams.append(stream)
        self._shares.append(share)
        self._lengths.append(lengths)

    def sequences(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs_BL, targets_BL), int64, of any stretch of the run's sequences, which are counted from 0.

        So several processes can each read their part of a batch. Targets that are not to be predicted are -100.
        """
        counts = self.schedule.counts(first)
        sources_B = self.schedule.sources(first, count)
        tokens_BM = np.empty((count, self.context_tokens + 1), dtype=np.int64)
        ignored_BL = np.zeros((count, self.context_tokens), dtype=bool)
        for source, stream in enumerate(self.streams):
            rows = np.flatnonzero(sources_B == source)
            if len(rows):
                stream.fill(counts[source] + np.arange(len(rows)), rows, tokens_BM, ignored_BL)
        targets_BL = tokens_BM[:, 1:]
        if self.packing == "documents":
            targets_BL = np.where(ignored_BL, IGNORED, targets_BL)
        return tokens_BM[:, :-1], targets_BL

    def position(self, first: int) -> dict[str, int]:
        """How many sequences of each source come before sequence `first`."""
        counts = self.schedule.counts(first)
        return {stream.name: count for stream, count in zip(self.streams, counts, strict=True)}

    @property
    def epochs(self) -> dict[str, float]:
        """How often the whole run goes through each source, and through its long documents where they are chosen."""
        counts = self.schedule.counts(self.total_sequences)
        return {
            stream.name: count * self.context_tokens / stream.tokens
            if isinstance(stream, SourceStream)
            else count / stream.sequences
            for stream, count in zip(self.streams, counts, strict=True)
        }

    @property
    def predicted_share(self) -> float:
        """Share of a sequence's tokens that are predicted, on average: 1 but for padding."""
        shares = [stream.predicted_tokens / (stream.sequences * self.context_tokens) for stream in self.streams]
        return float(np.average(shares, weights=self._shares))

    def check_repeats(self, repeat_at_most: float, stage: str) -> None:
        """Raises DataError where the text runs out: where a stage would go through a source more often than that."""
        often = [f"{name} {epochs:.1f} times" for name, epochs in self.epochs.items() if epochs > repeat_at_most]
        if often:
            raise DataError(
                f"{stage}: the text runs out before the budget: training would go through {', '.join(often)}, but "
                f"repeat_at_most is {repeat_at_most:g}",
                remedy="give the source more text, a smaller share or a smaller budget_tokens, or raise repeat_at_most",
            )

    def warnings(self) -> list[str]:
        """What a user should know of: sources without long documents."""
        if not (self.documents and self.without_long):
            return []
        names, tokens = ", ".join(self.without_long), self.documents.minimum_tokens
        return [f"no documents of {tokens:,} tokens in {names}: read as usual"]

    def facts(self) -> dict[str, Any]:
        """What a record should tell: epochs, padding, and the share of tokens from documents of each length."""
        facts: dict[str, Any] = {
            "packing": self.packing,
            "documents": self.documents.model_dump() if self.documents else None,
            "epochs": {name: round(epochs, 4) for name, epochs in self.epochs.items()},
            "not_predicted_share": round(1 - self.predicted_share, 6),
        }
        if all(lengths is not None for lengths in self._lengths):
            tokens = np.zeros(BINS)
            for share, lengths in zip(self._shares, self._lengths, strict=True):
                assert lengths is not None
                tokens += share * lengths[1] / lengths[1].sum()
            facts["lengths"] = named(tokens / tokens.sum(), digits=6)
        return facts


def _shards(blend_json: Path, name: str, entry: dict[str, Any]) -> list[Shard]:
    listed = [shard for shard in entry["shards"] if shard["tokens"]]
    if not listed:
        raise CorruptArtifact(
            f"{blend_json}: source {name} has a share of the blend, but no tokens",
            remedy=f"give {name} more text, or take it out of the blend",
        )
    return [
        Shard(shard["prefix"], shard["tokens"], shard["documents"], shard.get("sha256_bin", "")) for shard in listed
    ]
