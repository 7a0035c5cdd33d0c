"""Teacher forcing against a direct computation and against greedy generation through the caches."""

from __future__ import annotations

import pytest
import torch

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.generation import generate_greedily
from sidewinder.evaluate.mendable import OutOfMemory
from sidewinder.evaluate.scoring import Item, batches, score_items
from sidewinder.evaluate.subject import Subject

from .hungry import Hungry


def items_of(texts: list[str], subject: Subject) -> list[Item]:
    """Sequences of many lengths with one or two spans."""
    items = []
    for place, text in enumerate(texts[:12]):
        tokens = [subject.start, *subject.encode(text)][: 10 + 7 * place]
        spans = [(1, 3), (5, len(tokens))] if place % 2 else [(len(tokens) - 1, len(tokens))]
        items.append(Item(f"text {place}", tokens, spans))
    return items


@torch.no_grad()
def test_scores_equal_full_softmax_in_float64(texts: list[str], subject: Subject) -> None:
    items = items_of(texts, subject)
    scores = score_items(subject.model, items)
    precise = subject.model.double()
    for item, found in zip(items, scores, strict=True):
        log_softmax_LV = precise(torch.tensor([item.tokens]))[0].log_softmax(-1)
        for (start, end), score in zip(item.spans, found, strict=True):
            wanted = sum(float(log_softmax_LV[at - 1, item.tokens[at]]) for at in range(start, end))
            argmax = log_softmax_LV[start - 1 : end - 1].argmax(-1).tolist()
            assert score.log_likelihood == pytest.approx(wanted, abs=1e-4, rel=1e-6)
            assert score.argmax == argmax
            assert score.exact == (argmax == list(item.tokens[start:end]))


def test_batches_change_nothing_but_rounding(texts: list[str], subject: Subject) -> None:
    items = items_of(texts, subject)
    together = score_items(subject.model, items, batch_tokens=4096)
    assert together == score_items(subject.model, items, batch_tokens=4096), "runs must agree to the bit"
    for alone, beside in zip(score_items(subject.model, items, batch_tokens=1), together, strict=True):
        for one, other in zip(alone, beside, strict=True):
            assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-4, rel=1e-5)
            assert one.argmax == other.argmax


def test_batches_for_which_memory_does_not_suffice_are_halved(texts: list[str], hybrid: Subject) -> None:
    items = items_of(texts, hybrid)
    wanted = score_items(hybrid.model, items)
    longest = max(max(end for _, end in item.spans) for item in items) - 1
    found = score_items(Hungry(hybrid.model, longest), items, batch_tokens=4096)
    for (one, *_), (other, *_) in zip(found, wanted, strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-4, rel=1e-5)
    with pytest.raises(OutOfMemory, match=rf"suffice for text \d+ by itself, {longest} tokens: .*allocate memory"):
        score_items(Hungry(hybrid.model, longest - 1), items)


def test_exact_is_what_greedy_generation_gives(texts: list[str], subject: Subject) -> None:
    """With the greedy continuation as the answer, and with one that departs from it at a known place."""
    prompts = [[subject.start, *subject.encode(text)][:20] for text in texts[:8]]
    greedy = generate_greedily(subject.model, prompts, 8)
    items = []
    for wrong in (None, 0, 5):
        for row, (prompt, answer) in enumerate(zip(prompts, greedy, strict=True)):
            given = list(answer)
            if wrong is not None:
                given[wrong] = (given[wrong] + 1) % subject.model.vocab_size
            items.append(Item(f"{row} wrong at {wrong}", prompt + given, [(20, 28)]))
    for item, (score,) in zip(items, score_items(subject.model, items), strict=True):
        generated = generate_greedily(subject.model, [item.tokens[:20]], 8)[0]
        assert score.exact == (generated == item.tokens[20:])
        right = next((at for at in range(8) if generated[at] != item.tokens[20 + at]), 8)
        assert score.argmax[: right + 1] == generated[: right + 1], "equal up to the first wrong token"


def test_generation_through_the_cache_equals_reading_everything_again(texts: list[str], subject: Subject) -> None:
    prompts = [[subject.start, *subject.encode(text)][:17] for text in texts[:3]]
    for prompt, made in zip(prompts, generate_greedily(subject.model, prompts, 12), strict=True):
        tokens = list(prompt)
        with torch.no_grad():
            for _ in range(12):
                tokens.append(int(subject.model(torch.tensor([tokens]))[0, -1].argmax()))
        assert made == tokens[17:]


def test_generation_stops_row_by_row(hybrid: Subject) -> None:
    prompts = [[2, 300 + row, 7] for row in range(4)]
    whole = generate_greedily(hybrid.model, prompts, 10)
    stopped = generate_greedily(hybrid.model, prompts, 10, lambda row, tokens: len(tokens) == row + 1)
    assert stopped == [tokens[: row + 1] for row, tokens in enumerate(whole)]
    with pytest.raises(ValueError, match="must have a token"):
        generate_greedily(hybrid.model, [[1], []], 1)


def test_prompts_of_different_lengths_are_continued_as_if_alone(subject: Subject, texts: list[str]) -> None:
    prompts = [subject.encode(texts[0])[:length] for length in (30, 37, 31, 30)]
    alone = [generate_greedily(subject.model, [prompt], 9)[0] for prompt in prompts]
    assert generate_greedily(subject.model, prompts, 9) == alone


def test_batches_hold_all_places_within_the_bound() -> None:
    lengths = [5, 900, 17, 17, 300, 1, 64, 900]
    groups = batches(lengths, 1000)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * max(lengths[at] for at in group) <= 1000 for group in groups)


def test_a_log_likelihood_that_is_not_finite_names_the_sample(texts: list[str], hybrid: Subject) -> None:
    with torch.no_grad():
        hybrid.model.head.weight[5] = float("nan")
    with pytest.raises(EvaluationError, match=r"log-likelihood of text \d+ .* is nan\n  remedy: "):
        score_items(hybrid.model, items_of(texts, hybrid))
