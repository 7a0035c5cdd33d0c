"""The presets on local data: our adapter against lm-eval's `hf`, prompts against lm-eval's own.

Of both sides some answers are right (taught.py), and lm-eval's has scorers of its own (official.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from sentencepiece import SentencePieceProcessor

from sidewinder.config.suites import Harness
from sidewinder.evaluate import harness, loading
from sidewinder.evaluate.local_data import LocalData, reading
from sidewinder.evaluate.outcome import Outcome
from sidewinder.evaluate.presets import FOLDER, MMLU_FORMATS, NATURAL, PHONEBOOK, RULER, STANDARD, Unit, units
from sidewinder.evaluate.ruler import prompt_of
from sidewinder.evaluate.samples import read_samples
from sidewinder.evaluate.subject import Subject
from sidewinder.evaluate.task_index import manager_for
from sidewinder.export.tokenizer import write_tokenizer
from sidewinder.export.write import write_model
from sidewinder.model.checkpoint import ModelInfo

from . import official
from .conftest import random_model
from .local_sets import LENGTH, LONGER, SAMPLES, SIZED_AT, subjects, write_all
from .taught import TABLE, TAUGHT, answers_of, teach_sets, teach_task
from .test_docs import BYTES

pytest.importorskip("accelerate", reason="lm-eval's `hf` model imports it")
import lm_eval.evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import env

CONTEXT = LENGTH
GOLDEN = Path(__file__).parent / "golden" / "prompts.json"
NEARLY_EQUAL = 1e-5
"""Logits of which rounding may take one for the larger; they are of the order of 1."""
LOG_LIKELIHOOD = 1e-3
"""Tolerance of a continuation's log-likelihood in nats: float32 sums in other orders; many have hundreds of tokens."""
CHOICE = "sidewinder_mmlu_choice"
# Of MMLU with letters and as a cloze one subject stands for all against `hf`; the players run the groups.
AGAINST_HF = [
    *((task, 0) for task in (*STANDARD, *NATURAL) if task != "mmlu"),
    ("nq_open", 5),
    *((task, shots) for task in ("mmlu_anatomy", CHOICE, "mmlu_anatomy_continuation") for shots in (0, 5)),
]


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """lm-eval compiles a template anew for each document, which takes longer than all else here."""
    with patch.object(env, "from_string", cache(env.from_string)):
        yield


@pytest.fixture(scope="module")
def subject(tokenizer: SentencePieceProcessor) -> Subject:
    """A hybrid of few layers that writes a few words, others to each prompt, and then ends the line or document."""
    pieces = tokenizer.get_piece_size()
    model = random_model("hybrid", pieces, pattern="M*-")
    ends = [tokenizer.piece_to_id("<0x0A>"), tokenizer.eos_id()]
    words = [tokenizer.id_to_piece(piece)[1:] for piece in range(pieces)]
    others = [piece for piece in range(pieces) if not words[piece].isalpha()]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight *= 3 if weight.dim() > 1 and not name.startswith(("embedding", "head")) else 1
        model.head.weight[others] *= 0.3
        model.head.weight[:259] = 0  # Random bytes are no UTF-8, which the two decoders show differently.
        often = torch.tensor([[2.0], [2.5]])
        model.head.weight[ends] = often * torch.randn(2, 32, generator=torch.Generator().manual_seed(9))
    return Subject("hybrid", model, CONTEXT, tokenizer)


@pytest.fixture(scope="module")
def exported(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> HFLM:
    folder = tmp_path_factory.mktemp("export")
    (folder / "sentences.model").write_bytes(subject.tokenizer.serialized_model_proto())
    info = ModelInfo(subject.model.config, subject.model.vocab_size, CONTEXT, {}, {})
    write_model(subject.model, info, folder, bos=1, eos=2)
    write_tokenizer(folder / "sentences.model", folder, context_tokens=CONTEXT)
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, prefix_token_id=2)


@pytest.fixture(scope="module")
def sets(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local data of which the model knows some."""
    folder = write_all(tmp_path_factory.mktemp("sets"))
    tasks = [{"task": task, "shots": [0, 5] if task == "nq_open" else [0]} for task in TABLE]
    suite = Harness.model_validate({"kind": "harness", "samples": TAUGHT, "tasks": tasks})
    teach_sets(folder, answers_of(harness.run(subject, suite, tmp_path_factory.mktemp("first"), data=folder)))
    return folder


@pytest.fixture(scope="module", autouse=True)
def loaded_once(sets: Path) -> Iterator[Callable[..., Any]]:
    """lm-eval takes longer to load a task than a tiny model to answer it."""
    original, kept = loading.load_unit, {}

    def load_unit(manager: Any, unit: Unit, suite: Harness, *others: Any) -> dict[str, Any]:
        if unit not in kept:
            kept[unit] = original(manager, unit, suite.model_copy(update={"samples": SAMPLES}), *others)
        return kept[unit]

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
        with reading(data), loading.substituted(task), official.scorers(task):
            return lm_eval.evaluator.simple_evaluate(
                exported, tasks=[task], num_fewshot=shots, limit=SAMPLES, task_manager=manager, bootstrap_iters=0
            )

    yield run
    lm_eval.evaluator.add_env_info = told


def run(subject: Subject, sets: Path, folder: Path, **settings: Any) -> Outcome:
    model = settings.pop("model", None)
    suite = Harness.model_validate({"kind": "harness", "samples": SAMPLES} | settings)
    return harness.run(subject, suite, folder, data=sets, model=model)


@pytest.mark.parametrize(("task", "shots"), AGAINST_HF)
def test_prompts_and_scores_are_those_of_lm_eval_and_hf(
    task: str, shots: int, subject: Subject, sets: Path, tmp_path: Path, lm_evals_own: Any
) -> None:
    outcome = run(subject, sets, tmp_path, tasks=[{"task": task, "shots": [shots]}])
    wanted = lm_evals_own(task, shots)
    theirs = {(name, other["doc_id"]): other for name, found in wanted["samples"].items() for other in found}
    ours = {(sample["task"], sample["sample"]): sample for sample in read_samples(outcome.sample_files[0])}
    assert ours.keys() == theirs.keys()
    assert len(ours) >= SAMPLES
    for key, sample in ours.items():
        assert_same(sample, theirs[key], subject)
    for score in outcome.scores:
        kept = score.variant or "none"
        value = wanted["results"][score.task][f"{score.metric},{kept}"]
        assert score.value == pytest.approx(value, abs=LOG_LIKELIHOOD), score
        if score.task == task:
            assert 0 < score.value < (1 if "acc" in score.metric or score.value <= 1 else 100), "says nothing"
    assert {score.metric for score in outcome.scores if score.task == task} == {
        key.split(",")[0] for key in wanted["results"][task] if "," in key and "_stderr" not in key
    }


def assert_same(sample: dict[str, Any], other: dict[str, Any], subject: Subject) -> None:
    """Prompts and continuations are equal byte for byte; answers, to rounding."""
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


@pytest.mark.parametrize("length", SIZED_AT)
def test_made_tasks_score_as_with_hf(
    length: int, subject: Subject, sets: Path, tmp_path: Path, exported: HFLM, loaded_once: Any
) -> None:
    settings = {"tasks": SIZED_AT[length], "lengths_tokens": [length], "beyond": LONGER / CONTEXT}
    hf = HFLM(pretrained=exported.model, tokenizer=exported.tokenizer, max_length=length, prefix_token_id=2)
    first = answers_of(run(subject, sets, tmp_path / "first", **settings | {"samples": TAUGHT}))
    for task in SIZED_AT[length]:
        (made,) = loaded_once(None, Unit(task, 0, length), None)["tasks"].values()
        teach_task(made, first[task])
    ours = run(subject, sets, tmp_path / "ours", **settings)
    theirs = run(subject, sets, tmp_path / "theirs", **settings, model=lambda *given: hf)
    assert not ours.facts["missing"]
    assert ours.scores == theirs.scores
    assert all(0 < score.value < 1 for score in ours.scores), "says nothing"
    for one, other in zip(ours.sample_files, theirs.sample_files, strict=True):
        assert len(read_samples(one)) == SAMPLES
        assert read_samples(one) == read_samples(other)


def test_prompts_are_the_golden_ones(lm_evals_own: Any) -> None:
    """What lm-eval makes of a fixed document must not change unseen when lm-eval does."""
    found = {}
    for task, shots in AGAINST_HF:
        name = f"{CHOICE}::anatomy" if task == CHOICE else task
        found[f"{task} {shots}-shot"] = lm_evals_own(task, shots)["samples"][name][3]["arguments"]
    found |= {task: phonebook_arguments(task) for task in PHONEBOOK} | {task: ruler_arguments(task) for task in RULER}
    plain = json.loads(json.dumps(found))
    if not GOLDEN.is_file():  # To renew it on purpose: delete it, run, and look at the difference.
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")
    assert plain == json.loads(GOLDEN.read_text())


def phonebook_arguments(task: str) -> Any:
    """As lm-eval makes them of the task's file, in bytes for tokens: those of every tokenizer are the same."""
    settings = {"counter": BYTES, "lengths_tokens": [250], "books": 4, "shots": 0 if task.endswith("reversed") else 2}
    manager = TaskManager(include_defaults=False, include_path=str(FOLDER), metadata=settings)
    made = manager.load([task])["tasks"][task]
    made.build_all_requests()
    return made.instances[3].args


def ruler_arguments(task: str) -> Any:
    """Of a sample as simple as can be: what is drawn, and how much, depends on the tokenizer."""
    doc = {"input": "A text.", "outputs": ["an answer"], "gen_prefix": "Prefix:", "index": 0, "max_length": LENGTH}
    manager = manager_for([task])
    with loading.substituted(task):
        config = loading._config(manager, task) | {"custom_dataset": loading._given([doc]), "num_fewshot": 0}
        made = manager.load([config])["tasks"][task]
    made.build_all_requests()
    assert made.instances[0].args[0] == prompt_of(task, doc), "lengths are counted of the same"
    return made.instances[0].args


def test_mmlu_with_choice_texts_asks_what_mmlu_asks(subject: Subject, sets: Path, loaded_once: Any) -> None:
    """In all subjects, descriptions and all; examples alone have the choice's text for its letter."""
    suite = Harness(kind="harness", tasks=list(MMLU_FORMATS), samples=SAMPLES)
    manager, data = manager_for(list(MMLU_FORMATS)), LocalData(sets)
    lettered, texts = (loaded_once(manager, Unit(task, 0), suite, subject, data)["tasks"] for task in ("mmlu", CHOICE))
    assert len(texts) == len(lettered) == len(subjects()) == 57
    for name in subjects():
        one, other = lettered[f"mmlu_{name}"], texts[f"{CHOICE}::{name}"]
        shown = data.load("cais/mmlu", name, "dev").to_list()
        for doc in other.eval_docs.select([0]) if name != "anatomy" else other.eval_docs:
            assert other.fewshot_context(doc, 0) == one.fewshot_context(doc, 0)
            assert other.doc_to_choice(doc) == doc["choices"]
            assert one.doc_to_choice(doc) == list("ABCD")
            assert other.doc_to_target(doc) == one.doc_to_target(doc) == doc["answer"]
        wanted = one.fewshot_context(doc, 5)
        for row in shown:
            asked = one.doc_to_text(row)
            assert f"{asked} {'ABCD'[row['answer']]}\n\n" in wanted
            wanted = wanted.replace(f"{asked} {'ABCD'[row['answer']]}", f"{asked} {row['choices'][row['answer']]}")
        assert other.fewshot_context(doc, 5) == wanted


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
