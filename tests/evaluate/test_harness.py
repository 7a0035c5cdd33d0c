"""A suite of units: what is bad is named and the rest goes on; a killed suite goes on; processes share the work."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sidewinder.config.suites import Harness
from sidewinder.errors import EvaluationError
from sidewinder.evaluate import adapter, harness
from sidewinder.evaluate.journal import Journal, request_key
from sidewinder.evaluate.made_tasks import phonebook_samples
from sidewinder.evaluate.samples import read_samples
from sidewinder.evaluate.subject import Subject

from .hungry import Hungry
from .local_sets import TABLE, arc, mmlu, piqa, race, truthfulqa, write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """PIQA, WinoGrande and, with a column missing, OpenBookQA."""
    folder = tmp_path / "data"
    for path, name, splits, make in TABLE:
        if path in ("baber/piqa", "allenai/winogrande", "allenai/openbookqa"):
            for split in splits:
                rows = [make(random.Random(at), at) for at in range(60)]
                if path == "allenai/openbookqa":
                    rows = [{key: value for key, value in row.items() if key != "choices"} for row in rows]
                write(folder, path, name, split, rows)
    return folder


def suite(**settings: Any) -> Harness:
    return Harness.model_validate({"kind": "harness"} | settings)


def test_what_is_bad_is_named_and_the_rest_goes_on(hybrid: Subject, data: Path, tmp_path: Path) -> None:
    tasks = ["piqa", "sidewinder_nothing", "openbookqa", "sidewinder_phonebook", "winogrande"]
    outcome = harness.run(hybrid, suite(tasks=tasks, samples=50, lengths_tokens=[80]), tmp_path / "a", data=data)
    missing = outcome.facts["missing"]
    assert set(missing) == {"sidewinder_nothing-0shot", "openbookqa-0shot"}
    assert "unknown lm-eval task 'sidewinder_nothing'" in missing["sidewinder_nothing-0shot"]
    assert "lm-eval task 'openbookqa'" in missing["openbookqa-0shot"]
    assert "choices" in missing["openbookqa-0shot"]
    assert {score.task for score in outcome.scores} == {"piqa", "winogrande", "sidewinder_phonebook"}
    assert all(value.startswith("sha256:") for value in outcome.facts["datasets"].values())
    assert {"lm-eval", "piqa", "piqa template"} <= outcome.versions.keys()
    with pytest.raises(
        EvaluationError, match=r"no task of the suite could be run:\n.*sidewinder_nothing(.|\n)*openbookqa"
    ):
        harness.run(hybrid, suite(tasks=["sidewinder_nothing", "openbookqa"]), tmp_path / "b", data=data)


@pytest.mark.parametrize(
    ("task", "place", "row", "told"),
    [
        ("mmlu_anatomy", ("cais/mmlu", "anatomy"), {"question": None}, "UndefinedError: 'None' has no attribute"),
        ("race", ("EleutherAI/race", "high"), {"problems": "[{'question': 'cut sho"}, "SyntaxError: unterminated"),
    ],
)
def test_a_bad_value_in_one_row_is_named_and_the_rest_goes_on(
    hybrid: Subject, data: Path, tmp_path: Path, task: str, place: tuple[str, str], row: dict[str, Any], told: str
) -> None:
    """Not in the first row, which is looked at as early as the task is loaded."""
    make = {"mmlu_anatomy": mmlu, "race": race}[task]
    rows = [make(random.Random(at), at) for at in range(8)]
    for split in ("test", "validation", "dev"):
        write(data, *place, split, rows)
    rows[5] |= row
    write(data, *place, "test", rows)
    outcome = harness.run(hybrid, suite(tasks=[task, "piqa"], samples=8), tmp_path / "a", data=data)
    assert f"lm-eval task '{task}' fails on its data: {told}" in outcome.facts["missing"][f"{task}-0shot"]
    assert {score.task for score in outcome.scores} == {"piqa"}


def test_what_can_be_mended_leaves_the_suite_unfinished_and_the_rest_done(
    hybrid: Subject, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = suite(tasks=["piqa", "arc_easy", "openbookqa", "winogrande"], samples=5)
    ran: list[str] = []
    evaluated = harness._evaluated
    monkeypatch.setattr(harness, "_evaluated", lambda *given: ran.append(given[3].task) or evaluated(*given))
    with pytest.raises(EvaluationError) as raised:
        harness.run(hybrid, asked, tmp_path / "a", data=data, identity="one")
    told = str(raised.value)
    assert "not finished" in told
    assert "arc_easy-0shot: data set allenai/ai2_arc (ARC-Easy) is not at" in told
    assert "sidewinder datasets fetch" in told
    assert "openbookqa" not in told, "asking again would not help"
    assert "2 tasks are done, and not repeated" in told
    rows = [arc(random.Random(at), at) for at in range(20)]
    for split in ("train", "validation", "test"):
        write(data, "allenai/ai2_arc", "ARC-Easy", split, rows)
    (data / "manifest.json").write_text(json.dumps({"format": 1, "datasets": {"allenai/ai2_arc/ARC-Easy": {}}}))
    ran.clear()
    outcome = harness.run(hybrid, asked, tmp_path / "a", data=data, identity="one")
    assert ran == ["arc_easy"]
    assert {score.task for score in outcome.scores} == {"piqa", "arc_easy", "winogrande"}
    assert list(outcome.facts["missing"]) == ["openbookqa-0shot"]
    assert outcome.facts["datasets"].keys() == {
        "baber/piqa/default",
        "allenai/ai2_arc/ARC-Easy",
        "allenai/winogrande/winogrande_xl",
    }
    write(data, "baber/piqa", "default", "validation", [piqa(random.Random(at), at) for at in range(9)])
    ran.clear()
    harness.run(hybrid, asked, tmp_path / "a", data=data, identity="one")
    assert ran == ["piqa"], "its data is another"


def test_a_hub_that_cannot_be_asked_leaves_the_suite_unfinished(
    hybrid: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tasks = ["piqa", "sidewinder_phonebook"]
    with pytest.raises(EvaluationError, match=r"(?s)not finished.*piqa-0shot: .*cannot be loaded.*1 tasks are done"):
        harness.run(hybrid, suite(tasks=tasks, samples=2, lengths_tokens=[80]), tmp_path / "a")


def test_a_task_that_gives_nan_is_named_and_the_rest_goes_on(hybrid: Subject, data: Path, tmp_path: Path) -> None:
    """Texts of digits meet NaN, others do not; both log-likelihoods and generation."""
    with torch.no_grad():
        for digit in range(10):
            hybrid.model.embedding.weight[hybrid.encode(str(digit))[0]] = float("nan")
    tasks = ["piqa", "sidewinder_phonebook"]
    outcome = harness.run(hybrid, suite(tasks=tasks, samples=3, lengths_tokens=[80]), tmp_path / "a", data=data)
    reason = outcome.facts["missing"]["sidewinder_phonebook-0shot-80"]
    assert re.match(
        r"the greatest logit of the answer to '.*:' \(sidewinder_phonebook, sample \d\), 0 tokens .* is nan", reason
    )
    assert {score.task for score in outcome.scores} == {"piqa"}
    with torch.no_grad():
        hybrid.model.head.weight[5] = float("nan")
    with pytest.raises(EvaluationError, match=r"(?s)piqa-0shot: .*is nan.*sidewinder_phonebook-0shot-80: .*is nan"):
        harness.run(hybrid, suite(tasks=tasks, samples=3, lengths_tokens=[80]), tmp_path / "b", data=data)


def test_long_samples_are_cut_and_counted(hybrid: Subject, data: Path, tmp_path: Path) -> None:
    hybrid.context_tokens = 30
    outcome = harness.run(hybrid, suite(tasks=["piqa"], samples=50), tmp_path / "a", data=data)
    pairs = [
        (sample["prompt"], text)
        for sample in read_samples(outcome.sample_files[0])
        for text in sample["details"]["continuations"]
    ]
    longer = sum(len(hybrid.encode(prompt + text)) > 31 for prompt, text in pairs)
    assert 0 < outcome.facts["truncated"] == longer


def test_a_killed_suite_goes_on_where_it_was(
    hybrid: Subject, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = suite(tasks=["piqa", "winogrande"], samples=40)
    whole = harness.run(hybrid, asked, tmp_path / "whole", data=data)
    score, calls = adapter.score_batch, 0

    def limited(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise KeyboardInterrupt
        return score(*given)

    monkeypatch.setattr(adapter, "score_batch", limited)
    folder, limit = tmp_path / "killed", 10**9
    harness.run(hybrid, asked, tmp_path / "counted", data=data)
    all_batches, calls, limit = calls, 0, calls - 2
    with pytest.raises(KeyboardInterrupt):
        harness.run(hybrid, asked, folder, data=data, identity="one")
    (journal,) = folder.rglob("answers-0.jsonl")
    assert list(folder.rglob("piqa-0shot.json")), "the first task is done"
    with journal.open("a") as stream:
        stream.write('\n["half a li')
    calls, limit = 0, 10**9
    resumed = harness.run(hybrid, asked, folder, data=data, identity="one")
    assert calls == 2 < all_batches
    assert resumed.scores == whole.scores
    assert [read_samples(one) for one in resumed.sample_files] == [read_samples(one) for one in whole.sample_files]
    calls = 0
    harness.run(hybrid, asked, folder, data=data, identity="another")
    assert calls == all_batches, "nothing is taken over from other inputs"


def test_answers_are_found_by_what_was_asked(tmp_path: Path) -> None:
    keys = [request_key("loglikelihood", ("a", "b"), 96), request_key("loglikelihood", ("a", "b"), 97)]
    assert keys[0] != keys[1] != request_key("generate_until", ("a", "b"), 97)
    journal = Journal(tmp_path)
    journal.add({keys[0]: [-1.25, True]})
    journal.add({keys[1]: "text\n"})
    again = Journal(tmp_path, rank=1)
    assert (again[keys[0]], again[keys[1]], again.found) == ([-1.25, True], "text\n", 2)


def test_shots_of_a_phonebook_are_other_entries_of_the_same_book(hybrid: Subject, tmp_path: Path) -> None:
    tasks = [{"task": "sidewinder_phonebook", "shots": [0, 2]}]
    asked = suite(tasks=tasks, samples=6, lengths_tokens=[380], beyond=4)
    outcome = harness.run(hybrid, asked, tmp_path / "a")
    assert not outcome.facts["missing"]
    assert not outcome.facts["truncated"]
    for shots, file in zip((0, 2), outcome.sample_files, strict=True):
        samples = read_samples(file)
        assert [sample["details"]["book"] for sample in samples] == list(range(6)), "one question a book"
        for sample in samples:
            book, questions = sample["prompt"].split("\n\n")
            *shown, question = questions.split("\n")
            assert 330 < len(hybrid.encode(sample["prompt"])) <= 380 - 16
            assert len(shown) == shots
            assert set(shown) <= set(book.split("\n"))
            assert f"{question} {sample['answer']}" in set(book.split("\n")) - set(shown)


def test_shots_that_make_no_sense_are_refused(hybrid: Subject, tmp_path: Path) -> None:
    shots = {"sidewinder_phonebook_reversed": [0, 3], "niah_single_1": [3]}
    tasks = [{"task": task, "shots": counts} for task, counts in shots.items()]
    outcome = harness.run(hybrid, suite(tasks=tasks, samples=1, lengths_tokens=[380], beyond=4), tmp_path / "a")
    missing = outcome.facts["missing"]
    assert set(missing) == {"sidewinder_phonebook_reversed-3shot-380", "niah_single_1-3shot-380"}
    for name, reason in missing.items():
        assert f"{name.split('-')[0]} takes no shots, but 3 are asked for" in reason
    with pytest.raises(EvaluationError, match="60 tokens have no room for a standard phonebook of 31 entries"):
        phonebook_samples(hybrid, "standard", lengths_tokens=[60], books=1, queries=1, shots=30)


def test_a_task_that_fixes_its_shots_is_not_given_out_for_one_with_others(hybrid: Subject, tmp_path: Path) -> None:
    """lm-eval leaves a task of `num_fewshot: 0` at that, whatever is asked for."""
    data = tmp_path / "data"
    rows = [truthfulqa(random.Random(at), at) for at in range(10)]
    write(data, "truthfulqa/truthful_qa", "multiple_choice", "validation", rows)
    tasks = [{"task": "truthfulqa_mc2", "shots": [0, 5]}]
    outcome = harness.run(hybrid, suite(tasks=tasks, samples=3), tmp_path / "a", data=data)
    assert list(outcome.facts["missing"]) == ["truthfulqa_mc2-5shot"]
    assert (
        "'truthfulqa_mc2' has 0 shots in its own configuration, not the 5"
        in (outcome.facts["missing"]["truthfulqa_mc2-5shot"])
    )
    assert [(score.task, score.variant) for score in outcome.scores] == [("truthfulqa_mc2", "0-shot")]


def test_digits_and_queries_of_a_phonebook_are_the_suites(hybrid: Subject, tmp_path: Path) -> None:
    tasks = ["sidewinder_phonebook", "sidewinder_phonebook_reversed"]
    asked = suite(tasks=tasks, samples=5, lengths_tokens=[90], digits=3, queries=2)
    outcome = harness.run(hybrid, asked, tmp_path / "a")
    standard, reversed_ = (read_samples(file) for file in outcome.sample_files)
    assert all(len(sample["answer"]) == 3 for sample in standard + reversed_)
    assert [sample["details"]["book"] for sample in standard] == [0, 0, 1, 1, 2]
    assert [sample["details"]["book"] for sample in reversed_] == [0, 1, 2, 3, 4]
    assert len({sample["prompt"] for sample in standard}) == 5
    assert all(sample["prompt"].split("\n\n")[1].count("\n") == 0 for sample in standard)


def test_too_little_memory_is_tried_with_half_the_batch(hybrid: Subject, data: Path, tmp_path: Path) -> None:
    asked = suite(tasks=["piqa", "sidewinder_phonebook"], samples=20, lengths_tokens=[80], batch_tokens=400)
    wanted = harness.run(hybrid, asked, tmp_path / "a", data=data)
    hybrid.model = Hungry(hybrid.model, 200)
    found = harness.run(hybrid, asked, tmp_path / "b", data=data)
    assert [score.value for score in found.scores] == pytest.approx([score.value for score in wanted.scores])
    hybrid.model.most = 60
    with pytest.raises(EvaluationError) as raised:
        harness.run(hybrid, asked, tmp_path / "c", data=data, identity="one")
    told = str(raised.value)
    assert "piqa-0shot" in told
    assert "phonebook-0shot-80: the memory does not suffice for generation in batches of 400 tokens, nor of 200" in told
    assert "can't allocate memory" in told
    assert "set the suite's `batch_tokens` below 200" in told
    smaller = asked.model_copy(update={"batch_tokens": 60})
    assert smaller.identity == asked.identity
    hybrid.model.most = 90
    assert harness.run(hybrid, smaller, tmp_path / "c", data=data, identity="one").scores == found.scores


def test_copies_of_common_beginnings_are_made_smaller_where_the_memory_is_little(
    hybrid: Subject, tmp_path: Path
) -> None:
    """One question's choices have a beginning of which there is room for one copy, but not for four."""
    data = tmp_path / "data"
    rows = [arc(random.Random(at), at) for at in range(6)]
    for row in rows:
        row["question"] *= 4
    for split in ("train", "validation", "test"):
        write(data, "allenai/ai2_arc", "ARC-Easy", split, rows)
    asked = suite(tasks=["arc_easy"], batch_tokens=4000)
    hybrid.context_tokens = 400
    wanted = harness.run(hybrid, asked, tmp_path / "a", data=data)
    hybrid.model = Hungry(hybrid.model, 10**6, holds=300)
    with pytest.raises(EvaluationError, match="set the suite's `batch_tokens` below 2000"):
        harness.run(hybrid, asked, tmp_path / "b", data=data)
    found = harness.run(hybrid, asked.model_copy(update={"batch_tokens": 300}), tmp_path / "c", data=data)
    assert [score.value for score in found.scores] == pytest.approx([score.value for score in wanted.scores])


def test_a_part_is_taken_over_only_under_the_name_that_its_scores_have(hybrid: Subject, tmp_path: Path) -> None:
    for shots, variants in (([0], {None}), ([0, 2], {"0-shot", "2-shot"})):
        tasks = [{"task": "sidewinder_phonebook", "shots": shots}]
        asked = suite(tasks=tasks, samples=2, lengths_tokens=[90], digits=2)
        outcome = harness.run(hybrid, asked, tmp_path / "a", identity="one")
        assert {score.variant for score in outcome.scores} == variants
