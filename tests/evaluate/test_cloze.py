"""The cloze data set, and lm-eval's evaluator on it with known predictors."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from sidewinder.config.suites import Harness
from sidewinder.errors import DataError, EvaluationError
from sidewinder.evaluate import cloze
from sidewinder.evaluate.heldout import Heldout
from sidewinder.evaluate.samples import read_samples
from sidewinder.evaluate.subject import Subject

SUITE = Harness(kind="harness", tasks=[cloze.TASK], samples=40)


def test_questions_come_from_the_text_and_depend_on_the_seed_alone(heldout: Heldout, tmp_path: Path) -> None:
    questions = cloze.write_cloze(heldout, 40, 1, tmp_path / "one.jsonl")
    cloze.write_cloze(heldout, 40, 1, tmp_path / "again.jsonl")
    cloze.write_cloze(heldout, 40, 2, tmp_path / "other.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()
    assert (tmp_path / "one.jsonl").read_bytes() != (tmp_path / "other.jsonl").read_bytes()
    assert len(questions) == 40
    texts = [heldout.tokenizer.decode(document.tolist()) for document in heldout.documents("prose")]
    for question in questions:
        word = question.choices[question.answer]
        assert re.search(rf"{re.escape(question.context)} {word}\.\s", texts[question.document])
        assert len(set(question.choices)) == 4
        assert 60 < len(question.context) <= cloze.MOST_CHARACTERS
    assert len(Counter(question.answer for question in questions)) == 4, "the answer stands at every place"
    assert max(Counter(question.document for question in questions).values()) <= cloze.PER_DOCUMENT


def test_text_without_sentences_is_named(heldout: Heldout, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="held-out text of prose has only 0 usable sentence ends"):
        cloze.make_cloze(["no sentence here"], "prose", None, 1)
    with pytest.raises(EvaluationError, match="no source of the blend has `language: en`"):
        cloze.english_source(Heldout(heldout.blend, heldout.tokenizer_file, {"prose": 1.0}, {"prose": "fr"}))
    (tmp_path / "broken.jsonl").write_text('{"source": "x"}\n')
    with pytest.raises(DataError, match=r"broken.jsonl, line 1: .*missing"):
        cloze.read_cloze(tmp_path / "broken.jsonl")


def chosen_by(subject: Subject, tmp_path: Path) -> dict[str, float]:
    from sidewinder.evaluate import harness

    outcome = harness.run(subject, SUITE, tmp_path)
    assert len(read_samples(outcome.sample_files[0])) == 40
    assert outcome.versions[cloze.TASK] == "1"
    assert (tmp_path / cloze.FILE).is_file()
    json.loads(outcome.scores_text("cloze", "harness"))
    return {score.metric: score.value for score in outcome.scores}


def test_oracle_gets_all_and_its_opposite_none(heldout: Heldout, tmp_path: Path, predictor: Any, oracle: Any) -> None:
    questions = cloze.write_cloze(heldout, 40, 1, tmp_path / cloze.FILE)
    encode = heldout.tokenizer.encode
    sequences = [encode(f"{question.context} {choice}") for question in questions for choice in question.choices]
    right = [
        encode(f"{question.context} {question.choices[question.answer]}") for question in questions for _ in range(4)
    ]
    vocab_size = heldout.tokenizer.get_piece_size()

    def follow_right(tokens: list[int]) -> list[int]:
        return oracle(sequences, [other + [0] * 400 for other in right])(tokens)

    subject = Subject("oracle", predictor(vocab_size, follow_right), 400, heldout.tokenizer, heldout)
    assert chosen_by(subject, tmp_path)["acc"] > 0.95  # Words that share their first tokens with others can tie.
    subject.model = predictor(vocab_size, lambda tokens: [3] * len(tokens))
    lengths = [[len(encode(f"{question.context} {choice}")) for choice in question.choices] for question in questions]
    shortest = sum(row.index(min(row)) == question.answer for row, question in zip(lengths, questions, strict=True))
    assert chosen_by(subject, tmp_path)["acc"] == pytest.approx(shortest / 40), "never right: the fewest tokens win"


def test_unknown_and_unavailable_tasks_are_named(monkeypatch: pytest.MonkeyPatch, hybrid: Subject) -> None:
    import datasets
    import huggingface_hub
    import lm_eval.tasks

    from sidewinder.evaluate import loading
    from sidewinder.evaluate.presets import Unit

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    manager = lm_eval.tasks.TaskManager(
        include_defaults=False, include_path=[Path(lm_eval.tasks.__file__).parent / "sciq"]
    )
    suite = Harness(kind="harness", tasks=["sciq"])
    with pytest.raises(EvaluationError, match=r"unknown lm-eval task 'sciqq'\n  remedy: .*sciq"):
        loading.load_unit(manager, Unit("sciqq", 0), suite, hybrid, None)
    with pytest.raises(EvaluationError, match=r"task 'sciq' cannot be loaded: \w+: .*\n  remedy: its data set"):
        loading.load_unit(manager, Unit("sciq", 0), suite, hybrid, None)


def test_a_log_likelihood_that_is_not_finite_names_the_sample(
    hybrid: Subject, heldout: Heldout, tmp_path: Path
) -> None:
    from sidewinder.evaluate import harness

    hybrid.heldout = heldout
    with torch.no_grad():
        hybrid.model.head.weight[5] = float("nan")
    with pytest.raises(EvaluationError, match=r"log-likelihood of the continuation ' \w+' of .* is nan"):
        harness.run(hybrid, SUITE, tmp_path)
