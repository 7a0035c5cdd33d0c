"""Scoring of many continuations of the same text, which is read once.

Choices of a question share their context. Two things are saved, both exact:

- *rows*: an input that is the beginning of another one of its family needs no row of its own, because no place of a
  causal model sees what follows it. Choices of one token (letters) thus take one row in all.
- *prefix*: what all rows of a family begin with is read once into a decode cache, which is then repeated for the rows.
  Families whose prefixes are about equally long are read together, all up to the end of the shortest; what is left of
  a longer prefix goes with its rows.

Shapes: F families, R rows, L length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from sidewinder.evaluate.scoring import Item, SpanScore, batches, device_of, padded, predictions, split
from sidewinder.model import LanguageModel

FEWEST_SHARED_TOKENS = 24
"""Shorter prefixes are not worth two passes (measured on a CPU at hidden size 64)."""
MOST_MEMBERS = 64
SLACK = 16
"""Prefixes of one batch differ in length by at most a sixteenth of the shortest."""


@dataclass
class Row:
    """One input, and the items whose continuations are read off it (places in the list of items)."""

    inputs: list[int]
    items: list[int] = field(default_factory=list)


@dataclass
class Family:
    """Rows with the first `shared` tokens in common; 0 for a row that is alone."""

    rows: list[Row]
    shared: int = 0


@dataclass(frozen=True)
class Batch:
    """Rows for one pass after `shared` tokens that are read once a family."""

    families: list[Family]
    shared: int

    @property
    def rows(self) -> list[Row]:
        return [row for family in self.families for row in family.rows]

    @property
    def cost_tokens(self) -> int:
        """Tokens that pass through the model, padding not counted."""
        prefixes = self.shared * len(self.families) if self.shared else 0
        return prefixes + sum(len(row.inputs) - self.shared for row in self.rows)


@dataclass(frozen=True)
class Room:
    """What a batch may come to: `read` tokens in one pass, padding included, and `held` ones in the copied caches.

    A copy holds the prefix as well as what is read after it, so a row counts there with its whole length, as it does
    where it is read by itself, and with the `state` of its scans (`state_tokens`). The prefixes that are copied are not
    counted: they come to half as much at most.
    """

    read: int
    held: int
    state: int = 0

    def rows(self, family: Family) -> int:
        """How many rows of a family there is room for."""
        longest = max(len(row.inputs) for row in family.rows)
        return min(self.held // (longest + self.state), self.read // (longest - family.shared))


def plan(
    items: Sequence[Item],
    families: Sequence[Hashable],
    batch_tokens: int,
    cache_tokens: int | None = None,
    state: int = 0,
) -> list[Batch]:
    """What to read together, longest first; items with equal `families` are tried for a common beginning.

    `cache_tokens` is the most that the caches hold at once; as much as is read at once, unless told. `state` is what
    each row's takes of that beside its tokens.
    """
    room = Room(batch_tokens, cache_tokens or batch_tokens, state)
    members: dict[Hashable, list[int]] = defaultdict(list)
    for place, family in enumerate(families):
        members[family].append(place)
    whole = [family for places in members.values() for family in _families(items, places)]
    made = [part for family in whole for part in (_parts(family, room) if family.shared else [family])]
    alone = [family for family in made if not family.shared]
    lengths = [len(family.rows[0].inputs) for family in alone]
    plain = [Batch([alone[place] for place in group], 0) for group in batches(lengths, batch_tokens)]
    return _shared_batches([family for family in made if family.shared], room) + plain


def _families(items: Sequence[Item], places: Sequence[int]) -> list[Family]:
    """One family where the prefix is worth it, else each row by itself."""
    if len(places) > MOST_MEMBERS:  # No choices of one question, so that comparing all with all is not worth it.
        return [Family([Row(list(items[place].tokens[:-1]), [place])]) for place in places]
    rows = _rows(items, places)
    shared = min(_common([row.inputs for row in rows]), *(items[place].spans[0][0] - 1 for place in places))
    if len(rows) > 1 and shared >= FEWEST_SHARED_TOKENS:
        return [Family(rows, shared)]
    return [Family([row]) for row in rows]


def _parts(family: Family, room: Room) -> list[Family]:
    """As many rows at a time as there is room for; a row alone has nothing to share, and takes least by itself."""
    most = max(1, room.rows(family))
    parts = [family.rows[at : at + most] for at in range(0, len(family.rows), most)]
    return [Family(rows, family.shared if len(rows) > 1 else 0) for rows in parts]


def _rows(items: Sequence[Item], places: Sequence[int]) -> list[Row]:
    rows: list[Row] = []
    for place in sorted(places, key=lambda place: (-len(items[place].tokens), place)):
        inputs = list(items[place].tokens[:-1])
        for row in rows:
            if row.inputs[: len(inputs)] == inputs:
                row.items.append(place)
                break
        else:
            rows.append(Row(inputs, [place]))
    return rows


def _common(sequences: Sequence[list[int]]) -> int:
    """Tokens that all sequences begin with."""
    first, last = min(sequences), max(sequences)  # All others lie between them in dictionary order.
    length = min(len(first), len(last))
    return next((at for at in range(length) if first[at] != last[at]), length)


def _shared_batches(families: Sequence[Family], room: Room) -> list[Batch]:
    """Families in order of falling prefix length, as many at a time as both passes have room for."""
    made: list[list[Family]] = []
    for family in sorted(families, key=lambda family: -family.shared):
        if made and _fits([*made[-1], family], room):
            made[-1].append(family)
        else:
            made.append([family])
    return [Batch(group, group[-1].shared) for group in made]


def _fits(group: Sequence[Family], room: Room) -> bool:
    longest, shortest = group[0].shared, group[-1].shared
    if longest - shortest > shortest // SLACK:
        return False
    lengths = [len(row.inputs) for family in group for row in family.rows]
    read = max(len(group) * shortest, len(lengths) * (max(lengths) - shortest))
    return read <= room.read and len(lengths) * (max(lengths) + room.state) <= room.held


@torch.no_grad()
def score_batch(model: LanguageModel, items: Sequence[Item], batch: Batch) -> dict[int, SpanScore]:
    """The score of the only span of each item of a batch, by the item's place.

    Raises EvaluationError, naming the item, where a log-likelihood is not finite.
    """
    device, rows, cache = device_of(model), batch.rows, None
    if batch.shared:
        cache = model.new_cache(len(batch.families))
        model.hidden(padded([family.rows[0].inputs[: batch.shared] for family in batch.families], device), cache)
        owners = [place for place, family in enumerate(batch.families) for _ in family.rows]
        cache = cache.select(torch.tensor(owners, device=device))
    inputs_RL = padded([row.inputs[batch.shared :] for row in rows], device)
    hidden_RLD = model.hidden(inputs_RL) if cache is None else model.hidden(inputs_RL, cache)
    places = [place for row in rows for place in row.items]
    asked: list[tuple[int, int, int]] = []  # (row, place in it, target)
    for at, row in enumerate(rows):
        for place in row.items:
            start, end = items[place].spans[0]
            tokens = items[place].tokens[start:end]
            asked += [(at, start - 1 - batch.shared + step, int(token)) for step, token in enumerate(tokens)]
    at_row, at_place, targets = ([part[column] for part in asked] for column in range(3))
    log_likelihoods, argmax = predictions(model, hidden_RLD, at_row, at_place, targets)
    found = split([items[place] for place in places], targets, log_likelihoods, argmax)
    return {place: spans[0] for place, spans in zip(places, found, strict=True)}
