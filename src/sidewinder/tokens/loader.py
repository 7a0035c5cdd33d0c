"""Sequences of a blend in training order: a pure function of seed and place, with no state to save or lose.

Sequence i of a run takes its source from the schedule; if it is the k-th sequence of that source, it is piece p(k) of
the source's stream, tokens p·context … (p+1)·context, where p shuffles the pieces (as Megatron-LM does). Inputs and
targets overlap by all but one token, so that every token of a stream is predicted exactly once.

B sequences of a batch, L tokens of context.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from sidewinder.tokens.manifest import bytes_per_token, read_blend
from sidewinder.tokens.schedule import Schedule
from sidewinder.tokens.stream import Shard, SourceStream


class BlendLoader:
    """Random access to the sequences that one stage trains on.

    Raises CorruptArtifact, naming the file, where blend.json cannot be read or a shard is missing or truncated.
    """

    def __init__(self, blend_json: Path, context_tokens: int, seed: int, total_sequences: int) -> None:
        self.context_tokens, self.total_sequences = context_tokens, total_sequences
        blend = read_blend(Path(blend_json))
        self.eos, self.bytes_per_token = int(blend["eos"]), bytes_per_token(blend)
        token_bytes = np.dtype(blend["dtype"]).itemsize
        sources: dict[str, Any] = blend["sources"]
        self.streams = [
            SourceStream(name, _shards(entry), token_bytes, seed) for name, entry in sources.items() if entry["weight"]
        ]
        weights = [entry["weight"] for entry in sources.values() if entry["weight"]]
        offset = hashlib.blake2b(f"schedule/{seed}".encode(), digest_size=8).digest()
        self.schedule = Schedule(weights, int.from_bytes(offset))

    def sequences(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs_BL, targets_BL), int64, of any stretch of the run's sequences, which are counted from 0.

        So several processes can each read their part of a batch.
        """
        counts = self.schedule.counts(first)
        tokens_BL = np.empty((count, self.context_tokens + 1), dtype=np.int64)
        for row, source in enumerate(self.schedule.sources(first, count)):
            stream = self.streams[source]
            place = stream.place(counts[source], self.context_tokens)
            tokens_BL[row] = stream.read(place * self.context_tokens, self.context_tokens + 1)
            counts[source] += 1
        return tokens_BL[:, :-1], tokens_BL[:, 1:]

    def position(self, first: int) -> dict[str, int]:
        """How many sequences of each source come before sequence `first`."""
        counts = self.schedule.counts(first)
        return {stream.name: count for stream, count in zip(self.streams, counts, strict=True)}

    @property
    def epochs(self) -> dict[str, float]:
        """How often the whole run goes through each source."""
        counts = self.schedule.counts(self.total_sequences)
        return {
            stream.name: count * self.context_tokens / stream.tokens
            for stream, count in zip(self.streams, counts, strict=True)
        }


def _shards(entry: dict[str, Any]) -> list[Shard]:
    listed = [shard for shard in entry["shards"] if shard["tokens"]]
    return [Shard(shard["prefix"], shard["tokens"], shard["documents"]) for shard in listed]
