"""Every suite played by one who knows all, one who guesses and one who is silent: scores as arithmetic has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from lm_eval.utils import env
from sentencepiece import SentencePieceProcessor

from sidewinder.config.suites import Harness
from sidewinder.evaluate import harness, loading
from sidewinder.evaluate.local_data import LocalData, reading
from sidewinder.evaluate.outcome import Outcome, Score
from sidewinder.evaluate.presets import MMLU_FORMATS, NATURAL, PHONEBOOK, RULER, STANDARD, Unit
from sidewinder.evaluate.subject import Subject
from sidewinder.evaluate.task_index import manager_for

from .conftest import random_model
from .local_sets import LENGTH, LONGER, SAMPLES, SIZED_AT, subjects, write_all
from .players import CharacterGuesser, Guesser, Oracle, Player, Silent, guessed

OTHERS = list(dict.fromkeys([*STANDARD, *MMLU_FORMATS, *NATURAL]))
PERCENT = {"exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1", "em"}
CHOICES = {
    "winogrande": 2,
    "piqa": 2,
    "hellaswag": 4,
    "arc_easy": 4,
    "arc_challenge": 4,
    "openbookqa": 4,
    "race": 4,
    "pubmedqa": 3,
    "scrolls_quality": 4,
    "truthfulqa_mc2": 5 / 2,  # Two of five are true, and the score is what of the probability they get.
    **dict.fromkeys(MMLU_FORMATS, 4),
}
NORMALISED = {"piqa", "hellaswag", "arc_easy", "arc_challenge", "openbookqa", "scrolls_quality"}
NORMALISED |= set(MMLU_FORMATS) - {"mmlu"}
WRITTEN = ("nq_open", *(task for task in NATURAL if task.startswith("longbench") or task == "scrolls_narrativeqa"))
GUESSES = 1000
Found = dict[tuple[str, str], Score]


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """lm-eval compiles a template anew for each document, which takes longer than all else here."""
    with patch.object(env, "from_string", cache(env.from_string)):
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def subject(tokenizer: SentencePieceProcessor) -> Subject:
    return Subject("unasked", random_model("hybrid", tokenizer.get_piece_size(), pattern="M"), LONGER, tokenizer)


@pytest.fixture(scope="module")
def loaded(sets: Path, subject: Subject) -> Callable[[Unit], dict[str, Any]]:
    """lm-eval's tasks of a unit, loaded once."""
    data = LocalData(sets)
    manager = manager_for([*OTHERS, *RULER, *PHONEBOOK])
    suite, load_unit = Harness(kind="harness", tasks=["piqa"], samples=SAMPLES), loading.load_unit

    @cache
    def load(unit: Unit) -> dict[str, Any]:
        return load_unit(manager, unit, suite, subject, data)

    return load


@pytest.fixture(scope="module")
def play(
    subject: Subject, sets: Path, tmp_path_factory: pytest.TempPathFactory, loaded: Any
) -> Iterator[Callable[[type[Player]], Found]]:
    """Scores of a player in all presets, each task at its first number of shots."""

    @cache
    def player(kind: type[Player]) -> Found:
        scores: Found = {}
        for length, tasks in (SIZED_AT | {None: OTHERS}).items():
            suite = Harness(kind="harness", tasks=tasks, samples=SAMPLES, lengths_tokens=[length or LENGTH])
            outcome = harness.run(
                subject,
                suite,
                tmp_path_factory.mktemp(kind.__name__),
                data=sets,
                model=lambda of, unit, *others: kind(loaded(unit)["tasks"]),
            )
            assert_complete(outcome, tasks)
            scores |= {(score.task, score.metric): score for score in outcome.scores}
        return scores

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loading, "load_unit", lambda manager, unit, *others: loaded(unit))
        yield player


def assert_complete(outcome: Outcome, tasks: list[str]) -> None:
    """Every task has scores, and what else has is a part of a group."""
    assert not outcome.facts["missing"]
    assert {score.task for score in outcome.scores} >= set(tasks)
    grouped = {score.task for score in outcome.scores if f"{score.task} group" in outcome.versions}
    assert grouped == {score.task for score in outcome.scores} - set(tasks)


@pytest.fixture(scope="module")
def guesses(loaded: Any, sets: Path) -> Callable[..., dict[str, tuple[float, int]]]:
    """Mean of each metric over at least GUESSES guesses at a task, with how many they were."""

    @cache
    def guess(kind: type[Guesser], name: str, count: int = GUESSES) -> dict[str, tuple[float, int]]:
        length = next((length for length, tasks in SIZED_AT.items() if name in tasks), None)
        with reading(LocalData(sets)), loading.substituted(name):
            tasks = loaded(Unit(name, 0, length))["tasks"].values()
            seeds = range(1, 1 + math.ceil(count / sum(min(SAMPLES, len(task.eval_docs)) for task in tasks)))
            found = [(task, guessed(kind, task, seeds, SAMPLES)) for task in tasks]
            task = found[0][0]
            merged = {metric: [part for _, parts in found for part in parts[metric]] for metric in found[0][1]}
            return {metric: (task.aggregation()[metric](parts), len(parts)) for metric, parts in merged.items()}

    return guess


def close(found: tuple[float, int], share: float) -> bool:
    """Within four standard errors of a share of so many; what is not only right or wrong varies less."""
    value, count = found
    return count >= GUESSES and abs(value - share) < 4 * math.sqrt(share * (1 - share) / count)


def test_the_oracle_is_always_right(play: Any) -> None:
    for (task, metric), score in play(Oracle).items():
        assert score.value == pytest.approx(100 if metric in PERCENT else 1, abs=1e-4), (task, metric)
        if task in MMLU_FORMATS:
            assert score.n == len(subjects()) - 1 + SAMPLES
    assert ("longbench_trec", "classification_score") in play(Oracle)


@pytest.mark.parametrize("task", CHOICES)
def test_guessing_among_choices(task: str, guesses: Any) -> None:
    assert close(guesses(Guesser, task)["acc"], 1 / CHOICES[task])
    assert ("acc_norm" in guesses(Guesser, task)) == (task in NORMALISED)
    if task in NORMALISED:
        assert close(guesses(CharacterGuesser, task)["acc_norm"], 1 / CHOICES[task])


def test_guessing_in_scrolls(guesses: Any, sets: Path) -> None:
    value, count = guesses(CharacterGuesser, "scrolls_quality")["em"]
    assert close((value / 100, count), 1 / 4)  # Normalised accuracy in percent.
    rows = LocalData(sets).load("tau/scrolls", "qasper", "validation")["output"]
    share = sum(output in ("yes", "no") for output in rows) / SAMPLES
    value, count = guesses(Guesser, "scrolls_qasper", 5 * GUESSES)["f1"]
    # Half of what is asked for yes or no is right, nothing else: no number is in an answer.
    assert close((value / 100 / share, round(count * share)), 1 / 2)


def test_numbers_are_no_answer_but_in_a_phonebook(play: Any, guesses: Any) -> None:
    for task in (*WRITTEN, *RULER):
        found = [score.value for (name, _), score in play(Guesser).items() if name == task]
        assert found
        assert set(found) == {0}, task
    for task in PHONEBOOK:
        value, count = guesses(Guesser, task, GUESSES // 7 + 1)["digit_agreement"]
        assert close((value, 7 * count), 1 / 10)
        assert play(Guesser)[task, "exact_match"].value == 0


def test_guessing_in_squad(guesses: Any, sets: Path) -> None:
    found = {metric: value for metric, (value, _) in guesses(Guesser, "squadv2").items()}
    nothing = dict.fromkeys(("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"), 0.0)
    # Best is to answer nothing: that is right where there is no answer.
    best = pytest.approx(100 * unanswerable(sets))
    assert found == nothing | {"best_exact": best, "best_f1": best}


def unanswerable(sets: Path) -> float:
    rows = LocalData(sets).load("lighteval/squad_v2")["validation"]["answers"]
    return sum(not answers["text"] for answers in rows) / SAMPLES


def test_a_suite_gives_the_guesser_the_same(play: Any, loaded: Any, sets: Path) -> None:
    """The first seed's guesses, through the suite and its own means over groups."""
    scores = play(Guesser)
    for name in (*CHOICES, "squadv2", "scrolls_qasper", *PHONEBOOK):
        with reading(LocalData(sets)), loading.substituted(name):
            length = LENGTH if name in PHONEBOOK else None
            parts = [guessed(Guesser, task, [1], SAMPLES) for task in loaded(Unit(name, 0, length))["tasks"].values()]
        for metric in ("acc", "acc_norm", "digit_agreement"):
            values = [value for found in parts for value in found.get(metric, [])]
            if values:
                assert scores[name, metric].value == pytest.approx(sum(values) / len(values)), (name, metric)
                assert scores[name, metric].n == len(values)


def test_silence_is_right_where_there_is_no_answer(play: Any, sets: Path) -> None:
    scores = play(Silent)
    assert scores["squadv2", "exact"].value == pytest.approx(100 * unanswerable(sets))
    assert scores["squadv2", "best_exact"].value == pytest.approx(100 * unanswerable(sets))
    assert scores["squadv2", "NoAns_exact"].value == 100
    assert scores["squadv2", "HasAns_f1"].value == 0
    assert all(scores[task, "score"].value == 0 for task in RULER)
