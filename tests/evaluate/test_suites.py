"""The presets on local data: our adapter against lm-eval's `hf`, prompts against lm-eval's own, known players."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceProcessor

from sidewinder.config.suites import Harness
from sidewinder.evaluate import harness, loading
from sidewinder.evaluate.local_data import LocalData, reading
from sidewinder.evaluate.outcome import Outcome, Score
from sidewinder.evaluate.presets import MMLU_FORMATS, NATURAL, PHONEBOOK, RULER, STANDARD, Unit, units
from sidewinder.evaluate.samples import read_samples
from sidewinder.evaluate.subject import Subject
from sidewinder.evaluate.task_index import manager_for
from sidewinder.export.tokenizer import write_tokenizer
from sidewinder.export.write import write_model
from sidewinder.model.checkpoint import ModelInfo

from .conftest import random_model
from .local_sets import SAMPLES, subjects, write_all
from .players import Guesser, Oracle, Player, Silent

pytest.importorskip("accelerate", reason="lm-eval's `hf` model imports it")
import lm_eval.evaluator
from lm_eval.models.huggingface import HFLM

CONTEXT, LENGTH = 640, 640
GOLDEN = Path(__file__).parent / "golden" / "prompts.json"
NEARLY_EQUAL = 1e-5
"""Logits of which rounding may take one for the larger; they are of the order of 1."""
LOG_LIKELIHOOD = 1e-3
"""Tolerance of a continuation's log-likelihood in nats: float32 sums in other orders; many have hundreds of tokens."""
# MMLU's own group is run by the players; against `hf` one subject, with enough samples, stands for all.
AGAINST_HF = {
    **{task: 0 for task in (*STANDARD, *NATURAL) if task not in ("mmlu", "nq_open")},
    "mmlu_anatomy": 5,
    "mmlu_anatomy_continuation": 5,
    "nq_open": 5,
}
TOO_LONG = {"ruler_vt", "ruler_cwe", "ruler_qa_hotpot"}
"""RULER's tasks that need more than LENGTH tokens of the test's tokenizer."""


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def subject(tokenizer: SentencePieceProcessor) -> Subject:
    """A hybrid that often ends lines and documents, so that its answers are short, and has few layers."""
    model = random_model("hybrid", tokenizer.get_piece_size(), pattern="M*-")
    ends = [tokenizer.piece_to_id("<0x0A>"), tokenizer.eos_id()]
    with torch.no_grad():
        model.head.weight[:259] = 0  # Random bytes are no UTF-8, which the two decoders show differently.
        model.head.weight[ends] = 2 * torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    return Subject("hybrid", model, CONTEXT, tokenizer)


@pytest.fixture(scope="module")
def exported(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> HFLM:
    folder = tmp_path_factory.mktemp("export")
    (folder / "sentences.model").write_bytes(subject.tokenizer.serialized_model_proto())
    info = ModelInfo(subject.model.config, subject.model.vocab_size, CONTEXT, {}, {})
    write_model(subject.model, info, folder, bos=1, eos=2)
    write_tokenizer(folder / "sentences.model", folder, context_tokens=CONTEXT)
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, prefix_token_id=2)


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[Callable[..., Any]]:
    """lm-eval takes longer to load a task than a tiny model to answer it."""
    original, kept = loading.load_unit, {}

    def load_unit(manager: Any, unit: Unit, suite: Harness, *others: Any) -> dict[str, Any]:
        key = (unit, suite.samples, suite.haystack)
        if key not in kept:
            kept[key] = original(manager, unit, suite, *others)
        return kept[key]

    loading.load_unit = load_unit
    yield load_unit
    loading.load_unit = original


@pytest.fixture(scope="module")
def lm_evals_own(sets: Path, exported: HFLM) -> Iterator[Callable[[str, int], dict[str, Any]]]:
    """lm-eval's own evaluation of a task with its own `hf` model, everything as its command line does it."""
    data, told = LocalData(sets), lm_eval.evaluator.add_env_info
    lm_eval.evaluator.add_env_info = lambda *given: None  # Takes seconds, and tells of this machine.

    @cache
    def run(task: str, shots: int) -> dict[str, Any]:
        manager = manager_for([task])
        with reading(data), loading.substituted(task):
            return lm_eval.evaluator.simple_evaluate(
                exported, tasks=[task], num_fewshot=shots, limit=SAMPLES, task_manager=manager, bootstrap_iters=0
            )

    yield run
    lm_eval.evaluator.add_env_info = told


def run(subject: Subject, sets: Path, folder: Path, **settings: Any) -> Outcome:
    model = settings.pop("model", None)
    suite = Harness.model_validate({"kind": "harness", "samples": SAMPLES, "lengths_tokens": [LENGTH]} | settings)
    return harness.run(subject, suite, folder, data=sets, model=model)


@pytest.mark.parametrize("task", AGAINST_HF)
def test_prompts_and_scores_are_those_of_lm_eval_and_hf(
    task: str, subject: Subject, sets: Path, tmp_path: Path, lm_evals_own: Any
) -> None:
    shots = AGAINST_HF[task]
    outcome = run(subject, sets, tmp_path, tasks=[{"task": task, "shots": [shots]}])
    wanted = lm_evals_own(task, shots)
    ours, theirs = read_samples(outcome.sample_files[0]), wanted["samples"][task]
    assert len(ours) == len(theirs) == SAMPLES
    for sample, other in zip(ours, theirs, strict=True):
        pairs = [tuple(pair) for pair in other["arguments"]]
        assert sample["prompt"].encode() == pairs[0][0].encode()
        assert sample["details"]["prompts"] in ([], [prompt for prompt, _ in pairs])
        assert sample["details"]["continuations"] == [text for _, text in pairs if isinstance(text, str)]
        try:
            assert_equal_answers(sample["prediction"], other["filtered_resps"])
        except AssertionError:
            # Rounding decides between two tokens of equal rank, and is not the same in every process.
            if sample["details"]["continuations"] or closest_call(subject, sample) > NEARLY_EQUAL:
                raise
    for score in outcome.scores:
        kept = score.variant or "none"
        assert score.value == pytest.approx(wanted["results"][task][f"{score.metric},{kept}"], abs=LOG_LIKELIHOOD)
    assert {score.metric for score in outcome.scores} == {
        key.split(",")[0] for key in wanted["results"][task] if "," in key and "_stderr" not in key
    }


@torch.no_grad()
def closest_call(subject: Subject, sample: dict[str, Any]) -> float:
    """The smallest distance of the best two logits along a greedy answer, and one token further."""
    answer = subject.encode(sample["prediction"])
    tokens = [*subject.encode(sample["prompt"]), *answer][-CONTEXT:]
    logits_LV = subject.model(torch.tensor([tokens]))[0, -len(answer) - 1 :]
    best_L2 = logits_LV.topk(2).values
    return (best_L2[:, 0] - best_L2[:, 1]).min().item()


def assert_equal_answers(ours: str, theirs: list[Any]) -> None:
    """Texts are equal; log-likelihoods to the tolerance; whether a continuation is the greedy one is equal."""
    found = json.loads(ours) if len(theirs) > 1 else [ours]
    for answer, other in zip(found, theirs, strict=True):
        if isinstance(other, str):
            assert answer == other
        else:
            assert answer[0] == pytest.approx(other[0], abs=LOG_LIKELIHOOD)
            assert answer[1] == other[1]


def test_made_tasks_score_as_with_hf(subject: Subject, sets: Path, tmp_path: Path, exported: HFLM) -> None:
    settings = {"tasks": [*PHONEBOOK, *(task for task in RULER if task not in TOO_LONG)]}
    ours = run(subject, sets, tmp_path / "ours", **settings)
    theirs = run(subject, sets, tmp_path / "theirs", **settings, model=lambda *given: exported)
    assert not ours.facts["missing"]
    assert ours.scores == theirs.scores
    for one, other in zip(ours.sample_files, theirs.sample_files, strict=True):
        assert len(read_samples(one)) == SAMPLES
        assert read_samples(one) == read_samples(other)


def test_prompts_are_the_golden_ones(lm_evals_own: Any) -> None:
    """What lm-eval makes of a fixed document must not change unseen when lm-eval does."""
    found = {task: lm_evals_own(task, shots)["samples"][task][3]["arguments"] for task, shots in AGAINST_HF.items()}
    plain = json.loads(json.dumps(found))
    if not GOLDEN.is_file():  # To renew it on purpose: delete it, run, and look at the difference.
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")
    assert plain == json.loads(GOLDEN.read_text())


# Players


@pytest.fixture(scope="module")
def play(
    subject: Subject, sets: Path, tmp_path_factory: pytest.TempPathFactory, loaded_once: Any
) -> Callable[[type[Player]], dict[tuple[str, str, str | None], Score]]:
    """Scores of a player in all presets, each task at its first number of shots."""
    tasks = [*STANDARD, *MMLU_FORMATS, *NATURAL, *RULER, *PHONEBOOK]
    suite = Harness(kind="harness", tasks=tasks, samples=SAMPLES, lengths_tokens=[LENGTH])
    manager, data = manager_for(tasks), LocalData(sets)

    def player(kind: type[Player]) -> dict[tuple[str, str, str | None], Score]:
        def model(of: Subject, unit: Unit, *others: Any) -> Player:
            return kind(loaded_once(manager, unit, suite, of, data)["tasks"])

        folder = tmp_path_factory.mktemp(kind.__name__)
        outcome = harness.run(subject, suite, folder, data=sets, model=model)
        assert {name.split("-")[0] for name in outcome.facts["missing"]} == TOO_LONG
        assert {score.task for score in outcome.scores} >= set(tasks) - TOO_LONG
        grouped = {score.task for score in outcome.scores if f"{score.task} group" in outcome.versions}
        assert grouped == {score.task for score in outcome.scores} - set(tasks)
        return {(score.task, score.metric, score.variant): score for score in outcome.scores}

    return player


PERCENT = {"exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1", "em"}


def test_the_oracle_is_always_right(play: Any) -> None:
    for (task, metric, _), score in play(Oracle).items():
        if (task, metric) == ("longbench_trec", "classification_score"):
            continue  # Also counts other classes that the right one's name contains.
        assert score.value == pytest.approx(100 if metric in PERCENT else 1, abs=1e-4), (task, metric)


def test_guessing_gives_what_arithmetic_says(play: Any) -> None:
    scores = play(Guesser)
    chance = {"winogrande": 1 / 2, "piqa": 1 / 2, "pubmedqa": 1 / 3, "truthfulqa_mc2": 2 / 5}
    chance |= dict.fromkeys(
        ["hellaswag", "arc_easy", "arc_challenge", "openbookqa", "race", "scrolls_quality", *MMLU_FORMATS], 1 / 4
    )
    for task, share in chance.items():
        score = scores[task, "acc", None]
        assert score.n == (len(subjects()) - 1 + SAMPLES if task in MMLU_FORMATS else SAMPLES)
        assert abs(score.value - share) < 4 * math.sqrt(share * (1 - share) / score.n), task
    digits = [scores[task, "digit_agreement", None] for task in PHONEBOOK]
    assert all(abs(score.value - 0.1) < 4 * math.sqrt(0.09 / (7 * SAMPLES)) for score in digits)
    for task in (*NATURAL, *RULER, *PHONEBOOK, "nq_open"):
        for (name, metric, _), score in scores.items():
            if name == task and metric not in ("acc", "acc_norm", "em", "digit_agreement") and task != "scrolls_qasper":
                assert score.value == 0, (task, metric)


def test_silence_is_right_where_there_is_no_answer(play: Any, sets: Path) -> None:
    scores = play(Silent)
    unanswerable = sum(not row["answers"]["text"] for row in LocalData(sets).load("lighteval/squad_v2")["validation"])
    assert scores["squadv2", "exact", None].value == pytest.approx(100 * unanswerable / SAMPLES)
    assert scores["squadv2", "NoAns_exact", None].value == 100
    assert scores["squadv2", "HasAns_f1", None].value == 0
    assert all(scores[task, "score", None].value == 0 for task in RULER if task not in TOO_LONG)


def test_mmlu_with_choice_texts_asks_what_mmlu_asks(subject: Subject, sets: Path, loaded_once: Any) -> None:
    suite = Harness(kind="harness", tasks=list(MMLU_FORMATS), samples=SAMPLES)
    manager, data = manager_for(list(MMLU_FORMATS)), LocalData(sets)
    lettered, texts = (
        loaded_once(manager, Unit(task, 0), suite, subject, data)["tasks"][name]
        for task, name in (("mmlu", "mmlu_anatomy"), ("sidewinder_mmlu_choice", "sidewinder_mmlu_choice::anatomy"))
    )
    for doc in texts.eval_docs:
        assert texts.fewshot_context(doc, 0) == lettered.fewshot_context(doc, 0)
        assert texts.doc_to_choice(doc) == doc["choices"]
        assert lettered.doc_to_choice(doc) == list("ABCD")
        assert texts.doc_to_target(doc) == lettered.doc_to_target(doc) == doc["answer"]
    shown = data.load("cais/mmlu", "anatomy", "dev")[0]
    context = texts.fewshot_context(texts.eval_docs[0], 1)
    assert f"Answer: {shown['choices'][shown['answer']]}\n\n" in context


def test_presets_are_the_papers_tasks() -> None:
    wanted, _ = units(Harness(kind="harness", preset="standard"), 4096)
    assert len({unit.task for unit in wanted}) == 12
    assert [unit.variant for unit in wanted if unit.task == "mmlu"] == ["0-shot", "5-shot"]
    wanted, _ = units(Harness(kind="harness", preset="mmlu-formats"), 4096)
    assert len(wanted) == 6
    wanted, left_out = units(Harness(kind="harness", preset="long"), 16_384)
    assert len({unit.task.removesuffix("_reversed") for unit in wanted}) == 9 + 13 + 1
    assert {unit.length_tokens for unit in wanted if unit.task == "ruler_vt"} == {4096, 8192, 16_384}
    assert not left_out
    suite = Harness(kind="harness", preset="long", lengths_tokens=[512, 9999], beyond=2)
    wanted, left_out = units(suite, 1024)
    assert {unit.length_tokens for unit in wanted} == {None, 512}
    assert left_out == {"9999": "beyond 2 x the context of 1024 tokens"}
