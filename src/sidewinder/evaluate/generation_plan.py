"""Which prompts are generated from together: those of equal settings and about equal length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

RAGGED = 16
"""Prompts generated from together differ in length by at most a sixteenth of the shortest."""


@dataclass(frozen=True)
class Asked:
    """A prompt in tokens, and where its answer ends. `key` is the answer's in the journal, `name` is for errors."""

    key: str
    name: str
    prompt: list[int]
    most_tokens: int
    stops: tuple[str, ...]


def plan_generation(asked: Sequence[Asked], cache_tokens: int, state: int = 0) -> list[list[Asked]]:
    """Batches whose prompts and answers have at most `cache_tokens` tokens, each with `state` of them for that of its
    scans; a longer prompt goes alone."""
    groups: dict[tuple[int, tuple[str, ...]], list[Asked]] = defaultdict(list)
    for one in asked:
        groups[one.most_tokens, one.stops].append(one)
    batches: list[list[Asked]] = []
    for _, members in sorted(groups.items()):
        batch: list[Asked] = []
        for member in sorted(members, key=lambda member: -len(member.prompt)):
            if not batch or not _together(batch, member, cache_tokens, state):
                batch = []
                batches.append(batch)
            batch.append(member)
    return batches


def _together(batch: Sequence[Asked], member: Asked, cache_tokens: int, state: int) -> bool:
    longest, shortest = len(batch[0].prompt), len(member.prompt)
    tokens = (len(batch) + 1) * (longest + member.most_tokens + state)
    return longest - shortest <= shortest // RAGGED and tokens <= cache_tokens
