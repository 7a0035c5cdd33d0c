"""One pass over what several continuations begin with gives what a pass a continuation gives."""

from __future__ import annotations

import random

import pytest
import torch

from sidewinder.config.model import ModelConfig
from sidewinder.evaluate.generation_plan import Asked, plan_generation
from sidewinder.evaluate.prefix import FEWEST_SHARED_TOKENS, Batch, plan, score_batch
from sidewinder.evaluate.scoring import Item, SpanScore, score_items, state_tokens
from sidewinder.evaluate.subject import Subject
from sidewinder.model import LanguageModel

VOCABULARY = 600


def questions(count: int, rng: random.Random, *, shortest: int, longest: int) -> tuple[list[Item], list[int]]:
    """Items of `count` questions with four choices each, and the question of each item, in shuffled order."""
    items, owners = [], []
    for owner in range(count):
        prefix = [rng.randrange(VOCABULARY) for _ in range(rng.randint(shortest, longest))]
        for choice in range(4):
            answer = [rng.randrange(VOCABULARY) for _ in range(1 if owner % 3 == 0 else rng.randint(1, 6))]
            tokens = prefix + answer
            items.append(Item(f"{owner}.{choice}", tokens, [(len(prefix), len(tokens))]))
            owners.append(owner)
    order = rng.sample(range(len(items)), len(items))
    return [items[place] for place in order], [owners[place] for place in order]


def scored(subject: Subject, items: list[Item], batches: list[Batch]) -> list[SpanScore]:
    found: dict[int, SpanScore] = {}
    for batch in batches:
        made = score_batch(subject.model, items, batch)
        assert not found.keys() & made.keys()
        found |= made
    return [found[place] for place in range(len(items))]


@pytest.mark.parametrize(("read", "held"), [(400, 4000), (400, 400), (400, 130), (4, 4000)])
def test_scores_are_those_of_whole_sequences(subject: Subject, read: int, held: int) -> None:
    """Whole families, and where there is room for no more, two rows of one at a time or one."""
    items, owners = questions(9, random.Random(1), shortest=20, longest=60)
    batches = plan(items, owners, read, held)
    wanted = [spans[0] for spans in score_items(subject.model, items)]
    for ours, theirs in zip(scored(subject, items, batches), wanted, strict=True):
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, abs=2e-4)
        assert (ours.argmax, ours.exact) == (theirs.argmax, theirs.exact)


def test_a_prefix_is_read_once_and_batches_are_bounded() -> None:
    items, owners = questions(40, random.Random(2), shortest=30, longest=90)
    batches = plan(items, owners, 600)
    assert sorted(place for batch in batches for row in batch.rows for place in row.items) == list(range(len(items)))
    assert any(len(batch.families) > 1 for batch in batches if batch.shared)
    for batch in batches:
        if not batch.shared:
            continue
        for family in batch.families:
            assert family.shared >= batch.shared >= FEWEST_SHARED_TOKENS
            assert len({tuple(row.inputs[: batch.shared]) for row in family.rows}) == 1
        assert len(batch.rows) * max(len(row.inputs) - batch.shared for row in batch.rows) <= 600
        assert len(batch.families) * batch.shared <= 600
    prefixes = sum(
        min(len(item.tokens) for item, own in zip(items, owners, strict=True) if own == owner) for owner in range(40)
    )
    assert sum(batch.cost_tokens for batch in batches) < 1.4 * prefixes
    assert prefixes < 0.3 * sum(len(item.tokens) for item in items)


def test_copies_of_a_prefix_are_counted_where_room_is() -> None:
    """Unless a row by itself is longer."""
    items, owners = questions(40, random.Random(2), shortest=30, longest=90)
    sizes = set()
    for held in (5000, 600, 200, 50, 1):
        batches = plan(items, owners, 5000, held)
        assert sorted(place for batch in batches for row in batch.rows for place in row.items) == list(range(160))
        shared = [batch for batch in batches if batch.shared]
        sizes |= {len(batch.rows) / len(batch.families) for batch in shared}
        assert all(len(batch.rows) * max(len(row.inputs) for row in batch.rows) <= held for batch in shared)
        assert bool(shared) == (held > 100)
    assert {2, 4} <= sizes, "families in whole and in part"


@pytest.mark.parametrize(
    ("pattern", "least", "most"), [("*-" * 16, 0, 0), ("M" * 44, 200, 300), ("MMM*----" * 5, 80, 120)]
)
def test_states_are_counted_where_room_is(pattern: str, least: int, most: int) -> None:
    """Of models of about 1B parameters. Mamba-2's state takes 2 MB a layer and sequence, and short texts are many."""
    sizes = {"hidden_size": 2048, "attention": {"heads": 16, "head_size": 128}, "mlp": {"size": 8192}}
    with torch.device("meta"):
        model = LanguageModel(ModelConfig.model_validate({"pattern": pattern, **sizes}), 32_000).bfloat16()
        state, one = state_tokens(model), model.new_cache(1).nbytes()
    assert least <= state <= most
    items, owners = questions(2000, random.Random(3), shortest=25, longest=50)
    shared = [batch for batch in plan(items, owners, 16_384, 65_536, state) if batch.shared]
    assert all(len(batch.rows) * (state + max(len(row.inputs) for row in batch.rows)) <= 65_536 for batch in shared)
    assert max(len(batch.rows) for batch in shared) * one < 25e9
    asked = [Asked(str(place), "", [1] * 20, 12, ()) for place in range(3000)]
    assert max(map(len, plan_generation(asked, 65_536, state))) * one < 25e9


def test_choices_of_one_token_take_one_row() -> None:
    items = [Item(str(letter), [*range(100), letter], [(100, 101)]) for letter in (7, 8, 9)]
    longer = Item("longer", [*range(100), 7, 5], [(100, 102)])
    (batch,) = plan([*items, longer], ["question"] * 4, 1000)
    assert [len(row.items) for row in batch.rows] == [4]
    assert batch.cost_tokens == 101


def test_what_does_not_begin_alike_is_read_by_itself() -> None:
    items = [Item(str(first), [first, *range(50)], [(40, 51)]) for first in range(4)]
    batches = plan(items, ["question"] * 4, 1000)
    assert all(batch.shared == 0 for batch in batches)
    assert sum(batch.cost_tokens for batch in batches) == 200
    many = [Item(str(place), [*range(60), place], [(60, 61)]) for place in range(100)]
    assert sum(len(batch.rows) for batch in plan(many, ["text"] * 100, 1000)) == 100
