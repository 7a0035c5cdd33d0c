"""Scores of SQuAD 2 and SCROLLS: by hand, and against another implementation."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sidewinder.evaluate.squad import ScrollsMetric, own_score, squad_v2

from . import official

Case = tuple[str, list[str], float]
"""What was written, the references, the probability of no answer."""
CASES: list[Case] = [
    ("The Eiffel Tower!", ["eiffel tower"], 0.1),  # Case, punctuation, article: exact, F1 1.
    ("in Paris France", ["Paris"], 0.2),  # One word of 3, of 1 wanted: precision 1/3, recall 1, F1 1/2.
    ("red cat", ["a blue dog", "big red cat", "cat"], 0.3),  # F1 0, 2 * 2 / (2 + 3) = 0.8, 2 * 1 / (2 + 1): the best.
    ("", [], 0.9),  # No answer, and none is there.
    ("Rome", [], 0.8),  # An answer where none is.
    ("the", ["a", "An."], 0.95),  # Nothing is left of the references, nor of the answer; it has references, though.
    ("no no yes", ["no yes yes"], 0.4),  # Words count as often as both have them: 2 * 2 / (3 + 3) = 2/3.
    ("", ["blue"], 0.5),  # No answer where one is.
]


def given(cases: list[Case]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    predictions = [
        {"id": str(place), "prediction_text": text, "no_answer_probability": doubt}
        for place, (text, _, doubt) in enumerate(cases)
    ]
    references = [{"id": str(place), "answers": {"text": golds}} for place, (_, golds, _) in enumerate(cases)]
    return predictions, references


def test_squad_by_hand() -> None:
    found = squad_v2(*given(CASES))
    exact = [1, 0, 0, 1, 0, 1, 0, 0]
    f1 = [1, 1 / 2, 0.8, 1, 0, 1, 2 / 3, 0]
    answerable, others = [0, 1, 2, 5, 6, 7], [3, 4]
    for name, values in (("exact", exact), ("f1", f1)):
        assert found[name] == pytest.approx(100 * sum(values) / 8)
        assert found[f"HasAns_{name}"] == pytest.approx(100 * sum(values[place] for place in answerable) / 6)
        assert found[f"NoAns_{name}"] == pytest.approx(100 * sum(values[place] for place in others) / 2)
    # In the order of doubt: 0, 1, 2, 6, 7 gain what they score, "Rome" loses the point of question 4, "" keeps that of
    # 3, and "the" gains again what was lost. With all but the last three answered: 2 for none, and what was gained.
    assert found["best_exact"] == pytest.approx(100 * (2 + 1) / 8)
    assert found["best_f1"] == pytest.approx(100 * (2 + 1 + 1 / 2 + 0.8 + 2 / 3) / 8)


def test_the_best_threshold_answers_some_and_not_others() -> None:
    cases: list[Case] = [("x", ["x"], 0.1), ("y", [], 0.2), ("z", ["z"], 0.3), ("z", ["z"], 0.4), ("w", [], 0.9)]
    # None answered: 2. Then 3, 2, 3, 4 points; the last answer would be wrong again.
    assert squad_v2(*given(cases))["best_exact"] == pytest.approx(100 * 4 / 5)
    assert squad_v2(*given(cases))["exact"] == pytest.approx(100 * 3 / 5)


def test_what_is_as_likely_in_single_precision_stays_in_order() -> None:
    """0.3 and 0.3 + 1e-9 are one number to the official script, which then loses a point before it gains one."""
    cases: list[Case] = [("y", [], 0.3 + 1e-9), ("x", ["x"], 0.3)]
    assert squad_v2(*given(cases))["best_exact"] == pytest.approx(100 * 1 / 2)
    assert squad_v2(*given([("y", [], 0.4), ("x", ["x"], 0.3)]))["best_exact"] == pytest.approx(100)


def test_all_answerable_or_none() -> None:
    assert "NoAns_f1" not in squad_v2(*given(CASES[:3]))
    none = ("exact", "NoAns_exact", "best_exact", "f1", "NoAns_f1", "best_f1")
    assert squad_v2(*given([("", [], 0.0)])) == dict.fromkeys(none, 100.0)


SCROLLS: list[tuple[str, list[str], float]] = [
    ("The cat sat.", ["a cat sat"], 1.0),
    ("cat sat down", ["dog", "the cat"], 2 * 1 / (3 + 1)),
    ("red red", ["red blue", "green"], 2 * 1 / (2 + 2)),
    ("Unanswerable", ["unanswerable"], 1.0),
    ("yes", ["no"], 0.0),
    ("", ["anything"], 0.0),
    ("the", ["a"], 0.0),  # Unlike SQuAD 2's: no word in common, however equal the two.
]


def test_scrolls_by_hand() -> None:
    predictions, references = [text for text, _, _ in SCROLLS], [golds for _, golds, _ in SCROLLS]
    wanted = 100 * sum(value for _, _, value in SCROLLS) / len(SCROLLS)
    assert ScrollsMetric().compute(predictions, references)["f1"] == pytest.approx(wanted)
    for text, golds, value in SCROLLS:
        assert own_score("f1", (text, golds)) == pytest.approx(100 * value)


def test_another_implementation_agrees_on_random_answers() -> None:
    rng = random.Random(1)
    vocabulary = ["the", "a", "cat", "dog", "Cat", "river", ".", "!"]

    def text(longest: int = 3) -> str:
        return " ".join(rng.choices(vocabulary, k=rng.randint(0, longest)))

    for _ in range(200):
        cases = [
            (text(), [text() for _ in range(rng.choice([0, 1, 1, 3]))], rng.choice([0.0, 0.25, 0.5, rng.random()]))
            for _ in range(rng.randint(1, 9))
        ]
        predictions, references = given(cases)
        assert squad_v2(predictions, references) == pytest.approx(official.squad_v2(predictions, references))
        pairs = [case[0] for case in cases], [case[1] or [text()] for case in cases]
        assert ScrollsMetric().compute(*pairs) == pytest.approx(official.Scrolls().compute(*pairs))
