"""Phonebook and the needle: prompts, and the scores that arithmetic predicts for known predictors."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from sidewinder.config.suites import Needle, Phonebook
from sidewinder.evaluate import needle, phonebook
from sidewinder.evaluate.generation import generate_greedily
from sidewinder.evaluate.outcome import Outcome
from sidewinder.evaluate.recall import Prompt, answer_spans, summarise
from sidewinder.evaluate.subject import Subject

BOOKS = Phonebook(kind="phonebook", lengths_tokens=[96, 256, 1024, 4096], books=6, queries=4, digits=3)
NEEDLES = Needle(kind="needle", lengths_tokens=[300, 512, 2048], samples=6)
LONG = 4096


def book_prompts(subject: Subject) -> dict[tuple[int, str], list[Prompt]]:
    return {
        (length, variant): [
            phonebook.make_prompt(subject, BOOKS, length, variant, place) for place in range(BOOKS.books)
        ]
        for length in BOOKS.lengths_tokens
        for variant in phonebook.VARIANTS
    }


def needle_prompts(subject: Subject) -> dict[int, list[Prompt]]:
    return {
        length: [needle.make_prompt(subject, NEEDLES, length, place) for place in range(NEEDLES.samples)]
        for length in NEEDLES.lengths_tokens
    }


@pytest.fixture
def reader(tokenizer: SentencePieceProcessor, predictor: Any) -> Callable[[Any], Subject]:
    """A subject of 4,096 tokens that predicts what a function says."""

    def make(following: Any) -> Subject:
        return Subject("reader", predictor(tokenizer.get_piece_size(), following), LONG, tokenizer)

    return make


def test_books_are_just_under_their_length_in_the_training_format(reader: Callable[[Any], Subject]) -> None:
    for (length, variant), prompts in book_prompts(reader(None)).items():
        for prompt in prompts:
            assert length - 30 <= len(prompt.tokens) <= length
            book, _, asked = prompt.text.partition("\n\n")
            lines = book.split("\n")
            assert lines.pop(0).startswith("Find ") if variant == phonebook.REVERSED else "Find" not in book
            answers = dict(line.split(": ") for line in lines)
            assert len(answers) == len(lines), "names are distinct"
            assert [answers[line.split(": ")[0]] for line in asked.strip().split("\n")] == [
                prompt.text[question.first : question.last].strip() for question in prompt.questions
            ]
            assert asked.endswith("\n")
            assert len(prompt.questions) == (min(4, len(lines)) if variant == phonebook.STANDARD else 1)
            for question in prompt.questions:
                assert lines[question.about["entry"]].startswith(f"{question.about['asked']}: ")
                assert 0 <= question.about["position"] <= 1


def test_needles_are_just_under_their_length_and_in_the_text(reader: Callable[[Any], Subject]) -> None:
    depths = set()
    for length, prompts in needle_prompts(reader(None)).items():
        for prompt in prompts:
            (question,) = prompt.questions
            answer = prompt.text[question.first : question.last]
            assert length - 20 <= len(prompt.tokens) <= length
            assert prompt.text.endswith(f"{question.about['asked']} mentioned in the provided text is{answer}")
            line = prompt.text.split("\n")[1 + question.about["needle_line"]]
            assert line == f"One of the special magic numbers for {question.about['asked']} is:{answer}."
            assert prompt.text.count(answer) == 2
            assert len(answer) == 8
            depths.add(question.about["position"])
    assert len(depths) > 6, "needles lie at many depths"


def test_needle_has_rulers_words() -> None:
    """lm-eval's template in the singular, as its generator rewrites it, and its prefix of the answer."""
    template = (
        "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the {type_needle_v} afterwards.\n{context}\n"
        "What are all the special magic {type_needle_v} for {query} mentioned in the provided text?"
    )
    for old, new in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
        template = template.replace(old, new)
    prefix = " The special magic number for {query} mentioned in the provided text is"
    filled = (template + prefix).format(type_needle_v="number", context="CONTEXT", query="a-b")
    assert needle.TEMPLATE.format(context="CONTEXT", key="a-b") == filled


def run_both(subject: Subject) -> Outcome:
    books, needles = phonebook.run(subject, BOOKS), needle.run(subject, NEEDLES)
    return Outcome(books.scores + needles.scores, books.samples + needles.samples)


def all_prompts(subject: Subject) -> list[Prompt]:
    groups = [*book_prompts(subject).values(), *needle_prompts(subject).values()]
    return [prompt for group in groups for prompt in group]


def test_oracle_scores_one(reader: Callable[[Any], Subject], oracle: Any) -> None:
    sequences = [prompt.tokens for prompt in all_prompts(reader(None))]
    outcome = run_both(reader(oracle(sequences)))
    assert {score.value for score in outcome.scores} == {1.0}
    assert {score.stderr for score in outcome.scores} == {0.0}
    assert len(outcome.scores) == 2 * (len(BOOKS.lengths_tokens) * 2 + len(NEEDLES.lengths_tokens))
    assert all(sample["prediction"] == sample["answer"] for sample in outcome.samples)


def test_one_wrong_digit_fails_the_number_and_costs_one_digit(reader: Callable[[Any], Subject], oracle: Any) -> None:
    """Every last digit of an answer is predicted one too high."""
    subject = reader(None)
    prompts = all_prompts(subject)
    digits = [subject.encode(str(digit))[0] for digit in range(10)]
    told = [list(prompt.tokens) for prompt in prompts]
    for prompt, tokens in zip(prompts, told, strict=True):
        for _, end in answer_spans(subject, prompt):
            tokens[end - 1] = digits[(digits.index(tokens[end - 1]) + 1) % 10]
    for score in run_both(reader(oracle([prompt.tokens for prompt in prompts], told))).scores:
        count = 7 if score.task == needle.TASK else BOOKS.digits
        assert score.value == (0.0 if score.metric == "exact_match" else pytest.approx(1 - 1 / count))


def test_constant_and_random_digits_score_what_arithmetic_says(reader: Callable[[Any], Subject]) -> None:
    subject = reader(None)
    digits = [subject.encode(str(digit))[0] for digit in range(10)]
    sevens = run_both(reader(lambda tokens: [digits[7]] * len(tokens)))
    for score in sevens.scores:
        chosen = [
            sample
            for sample in sevens.samples
            if (sample["task"], sample["context_tokens"], sample.get("variant"))
            == (score.task, score.context_tokens, score.variant)
        ]
        answers = "".join(sample["answer"].strip() for sample in chosen)
        assert len(chosen) == score.n
        if score.metric == "digit_agreement":
            assert score.value == pytest.approx(answers.count("7") / len(answers))
    rng = random.Random(5)
    guesses = run_both(reader(lambda tokens: rng.choices(digits, k=len(tokens))))
    right = sum(sample["digits_right"] for sample in guesses.samples)
    total = sum(sample["digits"] for sample in guesses.samples)
    assert abs(right / total - 0.1) < 4 * math.sqrt(0.1 * 0.9 / total)


def test_exact_match_is_greedy_generation_of_a_real_model(subject: Subject) -> None:
    """The first answers of prompts, generated through the cache, against the teacher-forced scores."""
    suite = Phonebook(kind="phonebook", lengths_tokens=[96], books=8, queries=2, digits=1)
    outcome = phonebook.run(subject, suite)
    compared = 0
    for sample in outcome.samples:
        if sample["order"] or sample["variant"] == phonebook.REVERSED:
            continue
        place = int(sample["name"].split()[2])
        prompt = phonebook.make_prompt(subject, suite, 96, phonebook.STANDARD, place)
        start, end = answer_spans(subject, prompt)[0]
        generated = generate_greedily(subject.model, [prompt.tokens[:start]], end - start)[0]
        assert sample["exact"] == (generated == prompt.tokens[start:end])
        assert sample["prediction"][:1] == subject.pieces[generated[0]].decode(errors="replace")[:1]
        compared += 1
    assert compared == 8


def test_lengths_that_cannot_be_asked_are_named(reader: Callable[[Any], Subject]) -> None:
    subject = reader(lambda tokens: tokens)
    subject.context_tokens = 100
    outcome = phonebook.run(subject, Phonebook(kind="phonebook", lengths_tokens=[4, 96, 300], books=2, beyond=2.0))
    assert {score.context_tokens for score in outcome.scores} == {96}
    left_out = outcome.facts["lengths_left_out"]
    assert list(left_out) == ["4", "300"]
    assert left_out["300"] == "beyond 2 x the context of 100 tokens"
    assert left_out["4"].startswith("the shortest prompt has")


def test_budget_makes_fewer_books_where_they_are_long(reader: Callable[[Any], Subject]) -> None:
    settings = BOOKS.model_dump() | {"tokens_per_length": 3000}
    outcome = phonebook.run(reader(lambda tokens: tokens), Phonebook.model_validate(settings))
    counts = {score.context_tokens: score.n for score in outcome.scores if score.variant == phonebook.REVERSED}
    assert counts == {96: 6, 256: 6, 1024: 2, 4096: 2}


def test_standard_error_takes_the_questions_of_a_book_together() -> None:
    """Half of the books wholly right, half wholly wrong: the error is that of 6 coins, not of 24."""
    samples = [[{"exact": book < 3, "digits_right": 3 * (book < 3), "digits": 3}] * 4 for book in range(6)]
    for score in summarise(samples, task="phonebook"):
        assert score.value == 0.5
        assert score.n == 24
        assert score.stderr == pytest.approx(math.sqrt(0.25 * 6 / 5 / 6))
