"""RULER's 13 tasks: lengths, answers and scorers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import nltk
import pytest

from sidewinder.config.suites import Harness
from sidewinder.errors import EvaluationError
from sidewinder.evaluate import harness, loading, ruler
from sidewinder.evaluate.local_data import LocalData, MissingData
from sidewinder.evaluate.presets import RULER
from sidewinder.evaluate.ruler_tasks import _enough_words, _module, best_reference, fetching_nothing, sentences
from sidewinder.evaluate.samples import read_samples
from sidewinder.evaluate.subject import Subject
from sidewinder.evaluate.task_index import manager_for

from .conftest import random_model
from .players import Oracle, Player, Silent
from .ruler_sets import HOTPOT, SQUAD, Large, hotpot, squad, write_questions

SAMPLES = {4096: 50, 8192: 5, 16_384: 5, 32_768: 5, 65_536: 5, 131_072: 5}
QUESTIONS = ("ruler_qa_squad", "ruler_qa_hotpot")
Make = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def made(ruler_data: Path, large: Large) -> Make:
    """SAMPLES of a task at a length, each made once."""

    @cache
    def make(task: str, length: int) -> list[dict[str, Any]]:
        return ruler.make(task, length, SAMPLES[length], large.encode, seed=3, data=LocalData(ruler_data))

    return make


@pytest.mark.parametrize("length", SAMPLES)
def test_prompts_fill_their_length_and_hold_the_answer(length: int, made: Make, large: Large) -> None:
    for task in RULER:
        samples, room = made(task, length), ruler.ROOM.get(task, 128)
        prompts = [ruler.prompt_of(task, sample) for sample in samples]
        found = [len(large.encode(prompt)) for prompt in prompts]
        assert found[0] == len(large.sentencepiece.encode(prompts[0]))
        assert all(0.99 * (length - room) <= tokens <= length - room for tokens in found), (task, found)
        assert [sample["length"] for sample in samples] == [tokens + room for tokens in found]
        assert all(answer in sample["input"] for sample in samples for answer in sample["outputs"]), task
        assert len(set(prompts)) == len(samples) == SAMPLES[length]
        assert not any(sample["skipped"] for sample in samples)


def test_a_small_vocabulary_is_filled_too(ruler_data: Path, hybrid: Subject) -> None:
    for task in RULER:
        for sample in ruler.make(task, 4096, 3, hybrid.encode, seed=3, data=LocalData(ruler_data)):
            assert 0.99 * 4096 <= sample["length"] <= 4096, task
            assert all(answer in sample["input"] for answer in sample["outputs"])


@pytest.mark.parametrize(("player", "wanted"), [(Oracle, 1.0), (Silent, 0.0)])
def test_scorers_give_all_to_the_right_answer_and_nothing_to_none(
    player: type[Player],
    wanted: float,
    ruler_data: Path,
    made: Make,
    tmp_path: Path,
    hybrid: Subject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = Harness(kind="harness", tasks=list(RULER), samples=50, lengths_tokens=list(SAMPLES), beyond=2000)
    manager = manager_for(RULER)
    monkeypatch.setattr(ruler, "make", lambda task, length, *given, **settings: made(task, length))

    def model(subject: Subject, unit: Any, *others: Any) -> Player:
        return player(loading.load_unit(manager, unit, suite, subject, LocalData(ruler_data))["tasks"])

    outcome = harness.run(hybrid, suite, tmp_path, data=ruler_data, model=model)
    assert [(score.task, score.context_tokens, score.metric, score.n) for score in outcome.scores] == [
        (task, length, "score", count) for task in RULER for length, count in SAMPLES.items()
    ]
    assert {score.value for score in outcome.scores} == {wanted}
    assert outcome.facts["skipped_by_task"] == {}
    sample = read_samples(outcome.sample_files[0])[0]
    assert sample["prompt"] == ruler.prompt_of(RULER[0], made(RULER[0], 4096)[0])
    assert sample["prompt"].endswith("mentioned in the provided text is")
    assert sample["metrics"] == {"score": wanted}


def test_one_reference_of_several_is_enough() -> None:
    doc = {"max_length": 4096, "outputs": ["Ann Lee", "Lee", "the Lees"]}
    assert best_reference(doc, ["It was\x01 ann lee."]) == {"4096": 1.0}
    assert best_reference(doc, ["It was Bob."]) == {"4096": 0.0}


# Of what samples are a function


def test_samples_depend_on_seed_and_place_alone(
    ruler_data: Path, large: Large, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(seed: int) -> Any:
        make = partial(ruler.make, encode=large.encode, seed=seed, data=LocalData(ruler_data))
        return [make(task, 4096, samples=2) for task in RULER]

    before, first = random.getstate(), made(1)
    assert all(one != other for one, other in zip(first, made(2), strict=True))
    monkeypatch.setattr(nltk.data, "find", lambda *given: "there")  # As where NLTK's tables are.
    monkeypatch.setattr(nltk, "sent_tokenize", lambda text: [text])
    for task in RULER:
        ruler.make(task, 8192, 1, large.encode, seed=1, data=LocalData(ruler_data))
    assert made(1) == first
    assert random.getstate() == before


def test_lm_evals_modules_are_left_as_they_were(ruler_data: Path, large: Large) -> None:
    with fetching_nothing():
        modules = [_module(name) for name in ("prepare_niah", "cwe_utils", "qa_utils", "vt_utils", "fwe_utils")]
    before = [dict(vars(module)) for module in modules]
    for task in RULER:
        ruler.make(task, 4096, 1, large.encode, seed=1, data=LocalData(ruler_data))
    assert [dict(vars(module)) for module in modules] == before
    assert not modules[2].read_squad.cache_info().currsize


def test_words_where_the_known_ones_do_not_suffice() -> None:
    known = ["a", "b", "c-d", "e"]
    assert _enough_words(known, 3) == known
    words = _enough_words(known, 14)
    assert words[:4] == known
    assert 14 <= len(set(words)) == len(words)
    assert _enough_words(known, 14) == words


def test_needles_go_between_what_ends_with_a_full_stop() -> None:
    assert sentences("One two. Three\nfour! Five? six v. seven") == [
        "One two.",
        "Three\nfour!",
        "Five?",
        "six v.",
        "seven",
    ]


# Questions with documents of their own


def gold(file: Path, sample: dict[str, Any]) -> list[str]:
    """The documents of the question that a sample asks, as RULER prints them."""
    question = sample["input"].rsplit("Question: ", 1)[1]
    content = json.loads(file.read_text())
    if isinstance(content, list):
        found = next(entry for entry in content if entry["question"] == question)
        return [f"{title}\n{''.join(text)}" for title, text in found["context"]]
    paragraphs = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
    return [each["context"] for each in paragraphs if each["qas"][0]["question"] == question]


@pytest.mark.parametrize("length", [4096, 131_072])
def test_a_question_keeps_its_documents(length: int, made: Make, ruler_data: Path) -> None:
    for task, file in zip(QUESTIONS, (SQUAD, HOTPOT), strict=True):
        for sample in made(task, length):
            assert all(document in sample["input"] for document in gold(ruler_data / file, sample))


def test_a_question_keeps_its_documents_where_a_search_takes_all(tmp_path: Path, large: Large) -> None:
    """Short paragraphs come first, so that the search expects many to fit; lm-eval shuffles what it takes all of."""
    content = squad(random.Random(5), articles=2, longest=80)
    content["data"].insert(0, squad(random.Random(6), articles=5, longest=3)["data"][4])
    write_questions(tmp_path, SQUAD, content)
    for sample in ruler.make("ruler_qa_squad", 4096, 50, large.encode, seed=1, data=LocalData(tmp_path)):
        assert all(document in sample["input"] for document in gold(tmp_path / SQUAD, sample))


def test_questions_that_do_not_fit_are_passed_over_and_counted(tmp_path: Path, large: Large) -> None:
    questions = hotpot(random.Random(3), 60)
    for place in (1, 4, 5):
        questions[place]["context"][0][1] = ["The stone " * 2000]
    write_questions(tmp_path, HOTPOT, questions)
    suite = Harness(kind="harness", tasks=["ruler_qa_hotpot"], samples=30, lengths_tokens=[4096])
    manager, told = manager_for(RULER), LocalData(tmp_path)
    random_weights = random_model("transformer", large.sentencepiece.get_piece_size())
    subject = Subject("transformer", random_weights, 4096, large.sentencepiece)

    def model(subject: Subject, unit: Any, *others: Any) -> Player:
        return Oracle(loading.load_unit(manager, unit, suite, subject, told)["tasks"])

    outcome = harness.run(subject, suite, tmp_path / "out", data=tmp_path, model=model)
    assert [(score.value, score.n) for score in outcome.scores] == [(1.0, 30)]
    assert outcome.facts["skipped_by_task"] == {"ruler_qa_hotpot-0shot-4096": 3}
    asked = [
        sample["prompt"].split("Question: What of ")[1].split("?")[0]
        for sample in read_samples(outcome.sample_files[0])
    ]
    assert asked == [str(place) for place in range(33) if place not in (1, 4, 5)]


# What cannot be made


def test_what_is_missing_or_too_short_is_named(tmp_path: Path, large: Large) -> None:
    make = partial(ruler.make, samples=1, encode=large.encode, seed=1, data=LocalData(tmp_path))
    with pytest.raises(
        MissingData, match=r"data set baber/paul_graham_essays is not at .*\n  remedy: .*datasets fetch"
    ):
        make("niah_single_2", 4096)
    with pytest.raises(MissingData, match=r"file ruler/dev-v2.0.json is not at"):
        make("ruler_qa_squad", 4096)
    (sample,) = make("niah_single_2", 4096, haystack="python")
    assert "Python" in sample["input"]
    with pytest.raises(EvaluationError, match=r"ruler_cwe: no prompt fits in 60 tokens\n"):
        make("ruler_cwe", 180)


def test_text_that_no_prompt_can_be_filled_with_is_named(tmp_path: Path, large: Large) -> None:
    make = partial(ruler.make, "ruler_qa_squad", samples=5, encode=large.encode, seed=1, data=LocalData(tmp_path))
    write_questions(tmp_path, SQUAD, squad(random.Random(1), 1, longest=30))
    with pytest.raises(EvaluationError, match=r"all its documents together are \d+ tokens, and 4064 are to be filled"):
        make(4096)
    content = squad(random.Random(1), 2, longest=3)
    for paragraph in (paragraph for article in content["data"] for paragraph in article["paragraphs"]):
        paragraph["context"] += " 1" * 750  # Two tokens each; two documents leave a quarter of the room.
    write_questions(tmp_path, SQUAD, content)
    with pytest.raises(EvaluationError, match=r"no prompt fits in 4064 tokens, and fills 99% of them"):
        make(4096)
    with pytest.raises(EvaluationError, match=r"no prompt fits in 480 tokens\n"):
        make(512)
    lengths = [sample["length"] for sample in make(2048)]  # Below RULER's own lengths, one document is what fits.
    assert all(1500 < length < 0.99 * 2048 for length in lengths)
