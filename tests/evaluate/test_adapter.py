"""Our adapter against lm-eval's own `hf` model on the exported checkpoint."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM  # Needs accelerate.

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.adapter import SidewinderLM, fitted
from sidewinder.evaluate.command_line import run
from sidewinder.evaluate.journal import Journal
from sidewinder.evaluate.made_tasks import counter_of, number_results, phonebook_samples
from sidewinder.evaluate.subject import Subject
from sidewinder.export.tokenizer import write_tokenizer
from sidewinder.export.write import write_model
from sidewinder.model.checkpoint import ModelInfo, save_model


def requests(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, at) for at, each in enumerate(arguments)]


@pytest.fixture
def pair(subject: Subject, tmp_path: Path) -> tuple[SidewinderLM, HFLM]:
    """Each architecture behind our adapter and, exported, behind `hf`."""
    (tmp_path / "tokenizer.model").write_bytes(subject.tokenizer.serialized_model_proto())
    with torch.no_grad():  # Random bytes are no UTF-8, which the two decoders show differently.
        subject.model.head.weight[:259] = 0
    folder = tmp_path / "export"
    folder.mkdir()
    info = ModelInfo(subject.model.config, subject.model.vocab_size, subject.context_tokens, {}, {})
    write_model(subject.model, info, folder, bos=1, eos=2)
    write_tokenizer(tmp_path / "tokenizer.model", folder, context_tokens=subject.context_tokens)
    exported = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, prefix_token_id=2)
    assert exported.max_length == subject.context_tokens
    return SidewinderLM(subject=subject), exported


def test_log_likelihoods_equal_those_of_hf(pair: tuple[SidewinderLM, HFLM], texts: list[str]) -> None:
    ours, theirs = pair
    rng = random.Random(3)
    arguments = [("", " an answer"), ("A context with a space after it ", "and more"), ("word", "s</s>x")]
    for text in texts[:12]:
        start = rng.randrange(len(text) // 2)
        arguments.append((text[start : start + rng.randrange(5, 400)], " " + text[-rng.randrange(1, 40) :]))
    assert sum(len(ours.tok_encode(a + b)) > ours.max_length + 1 for a, b in arguments) > 1, "some must be cut"
    wanted = theirs.loglikelihood(requests("loglikelihood", arguments), disable_tqdm=True)
    found = ours.loglikelihood(requests("loglikelihood", arguments), disable_tqdm=True)
    for (log_likelihood, greedy), (their_log_likelihood, their_greedy) in zip(found, wanted, strict=True):
        assert log_likelihood == pytest.approx(their_log_likelihood, abs=1e-4)
        assert greedy == their_greedy
    assert ours.truncated == sum(len(ours.tok_encode(a + b)) > ours.max_length + 1 for a, b in arguments)


def test_rolling_log_likelihoods_equal_those_of_hf(pair: tuple[SidewinderLM, HFLM], texts: list[str]) -> None:
    ours, theirs = pair
    arguments = [(text,) for text in (*texts[:6], texts[0][:20])]
    wanted = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", arguments), disable_tqdm=True)
    found = ours.loglikelihood_rolling(requests("loglikelihood_rolling", arguments), disable_tqdm=True)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-4)


def test_generations_equal_those_of_hf(pair: tuple[SidewinderLM, HFLM], texts: list[str]) -> None:
    ours, theirs = pair
    plain = {"until": [], "max_gen_toks": 24, "do_sample": False}
    arguments = [(text[:length], plain) for text, length in zip(texts, (12, 40, 40, 200, 900), strict=False)]
    first = ours.generate_until(requests("generate_until", arguments), disable_tqdm=True)
    stops = [{**plain, "until": [made[5:8], "never said"]} for made in first]
    stops += [{**plain, "until": [made[7:8], made[5:8]]} for made in first]  # hf cuts at each in their order.
    arguments += [(context, stop) for (context, _), stop in zip(arguments * 2, stops, strict=True)]
    arguments += [(texts[0][:40], {"until": ["never said"], name: 7}) for name in ("max_new_tokens", "max_tokens")]
    found = ours.generate_until(requests("generate_until", arguments), disable_tqdm=True)
    assert found[:5] == first
    assert [len(text) for text in found[5:10]] <= [5] * 5
    assert 7 in [len(text) for text in found[10:15]]
    assert found == theirs.generate_until(requests("generate_until", arguments), disable_tqdm=True)


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_the_length_of_an_answer_has_the_names_that_hf_takes(hybrid: Subject, name: str) -> None:
    model = SidewinderLM(subject=hybrid)
    settings = [{"until": "x", name: 5}, {"until": None, name: 5, "do_sample": False, "temperature": 1.0}]
    assert [model._generation_settings(each) for each in settings] == [(["x"], 5), ([], 5)]


def test_is_registered_and_loads_from_files(hybrid: Subject, tmp_path: Path) -> None:
    save_model(hybrid.model, tmp_path / "checkpoint", context_tokens=64)
    (tmp_path / "tokenizer.model").write_bytes(hybrid.tokenizer.serialized_model_proto())
    model = get_model("sidewinder").create_from_arg_string(
        f"checkpoint={tmp_path / 'checkpoint'},tokenizer={tmp_path / 'tokenizer.model'}", {"batch_size": 1}
    )
    arguments = requests("loglikelihood", [("one two", " three")])
    assert model.max_length == 64
    assert model.loglikelihood(arguments) == SidewinderLM(subject=hybrid).loglikelihood(arguments)
    with pytest.raises(EvaluationError, match=r"needs the folder of a checkpoint.*\n  remedy: --model_args pretrained"):
        SidewinderLM()
    with pytest.raises(EvaluationError, match=r"there is no tokenizer at .*nowhere"):
        SidewinderLM(tmp_path / "checkpoint", tmp_path / "nowhere")


def test_an_export_folder_gives_what_its_checkpoint_gives(hybrid: Subject, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(hybrid.tokenizer.serialized_model_proto())
    info = ModelInfo(hybrid.model.config, hybrid.model.vocab_size, hybrid.context_tokens, {}, {})
    folder = tmp_path / "export"
    folder.mkdir()
    write_model(hybrid.model, info, folder, bos=1, eos=2)
    write_tokenizer(tmp_path / "tokenizer.model", folder, context_tokens=hybrid.context_tokens)
    model = SidewinderLM(pretrained=folder)
    arguments = requests("loglikelihood", [("one two", " three"), ("one two", " four five")])
    assert model.max_length == hybrid.context_tokens
    assert model.loglikelihood(arguments) == SidewinderLM(subject=hybrid).loglikelihood(arguments)
    with pytest.raises(EvaluationError, match=r"unknown dtype 'float8'\n  remedy: use one of float32, bfloat16"):
        SidewinderLM(pretrained=folder, dtype="float8")


@pytest.mark.parametrize(("name", "beside"), [("pretrained", "checkpoint"), ("checkpoint", "export")])
def test_lm_evals_own_command_knows_the_model_and_our_tasks(
    hybrid: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, beside: str
) -> None:
    """The tokenizer is in the checkpoint's folder, or in that of its export, where a stage of a study has it."""
    import lm_eval.evaluator

    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)  # Takes seconds.
    save_model(hybrid.model, tmp_path / "checkpoint", context_tokens=96)
    (tmp_path / beside).mkdir(exist_ok=True)
    (tmp_path / beside / "tokenizer.model").write_bytes(hybrid.tokenizer.serialized_model_proto())
    given = f"--model sidewinder --model_args {name}={tmp_path / 'checkpoint'} --tasks sidewinder_phonebook"
    settings = f"--output_path {tmp_path / 'out'} --log_samples"
    run([*given.split(), *settings.split(), "--metadata", json.dumps(BOOKS)])
    (results,) = (tmp_path / "out").rglob("results*.json")
    found = json.loads(results.read_text())
    assert found["results"]["sidewinder_phonebook"]["sample_len"] == 5
    (samples,) = (tmp_path / "out").rglob("samples*.jsonl")
    prompts = [json.loads(line)["arguments"]["gen_args_0"]["arg_0"] for line in samples.read_text().splitlines()]
    assert prompts == [sample["prompt"] for sample in phonebook_samples(hybrid, "standard", **BOOKS)]


def test_a_tokenizer_that_prompts_are_counted_by_is_named_where_it_is_not_there(pair: Any, tmp_path: Path) -> None:
    exported = counter_of({"pretrained": str(tmp_path / "export")})
    (tmp_path / "export" / "tokenizer.model").unlink()
    by_transformers = counter_of({"pretrained": str(tmp_path / "export")})
    assert by_transformers.encode("Ann: 12345\n") == exported.encode("Ann: 12345\n")
    (tmp_path / "stage").mkdir()
    assert counter_of({"pretrained": tmp_path / "stage", "tokenizer": tmp_path}).encode("Ann") == exported.encode("Ann")
    with pytest.raises(EvaluationError, match="needs a tokenizer\n  remedy: name it"):
        counter_of({"seed": 1})
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        EvaluationError, match=r"no tokenizer at .*empty/tokenizer.model or .*, and transformers has none"
    ):
        counter_of({"checkpoint": str(tmp_path / "empty")})


BOOKS: dict[str, Any] = {"lengths_tokens": [80], "books": 5, "queries": 1, "digits": 3}


def test_phonebook_prompts_are_books_that_fit_and_hold_the_answer(hybrid: Subject) -> None:
    settings = {"lengths_tokens": [200, 700], "books": 4, "digits": 5}
    for variant in ("standard", "reversed"):
        samples = phonebook_samples(hybrid, variant, **settings, queries=2, shots=3 if variant == "standard" else 0)
        assert len(samples) == 2 * 4 * (2 if variant == "standard" else 1)
        for sample in samples:
            line = sample["prompt"].rsplit("\n", 1)[1]
            assert f"{line} {sample['answer']}\n" in sample["prompt"]
            assert len(hybrid.encode(sample["prompt"])) + 16 <= sample["length"]
            book, asked = sample["prompt"].split("\n\n")
            lines = book.split("\n")[variant == "reversed" :]
            assert len(lines) == sample["entries"]
            assert lines[sample["entry"]] == f"{line} {sample['answer']}"
            assert asked.count("\n") == (3 if variant == "standard" else 0)
            assert book.startswith("Find ") == (variant == "reversed")
    assert number_results({"answer": "12345"}, [" 12045"]) == {"exact_match": 0.0, "digit_agreement": 0.8}
    assert number_results({"answer": "12345"}, ["12345"]) == {"exact_match": 1.0, "digit_agreement": 1.0}
    assert number_results({"answer": "12345"}, [""]) == {"exact_match": 0.0, "digit_agreement": 0.0}


def test_a_phonebooks_numbers_fit_what_a_model_may_generate(hybrid: Subject) -> None:
    """A digit is a token here, and so is the space before the first."""
    settings = {"lengths_tokens": [300], "books": 2}
    (sample, _) = phonebook_samples(hybrid, "standard", **settings, digits=15)
    assert len(sample["answer"]) == 15
    for variant in ("standard", "reversed"):
        with pytest.raises(EvaluationError, match="number of 16 digits takes 17 tokens, and its answer has 16"):
            phonebook_samples(hybrid, variant, **settings, digits=16)


def test_what_cannot_be_generated_or_scored_is_named(hybrid: Subject) -> None:
    model = SidewinderLM(subject=hybrid)
    for sampled in ({"do_sample": True, "temperature": 0.7}, {"temperature": 0.8}, {"do_sample": True}):
        with pytest.raises(EvaluationError, match="asks for sampled text"):
            model.generate_until(requests("generate_until", [("a", {"max_gen_toks": 4, **sampled})]))
    with pytest.raises(EvaluationError, match="generates up to 256 tokens, but the model reads 96 in all"):
        model.generate_until(requests("generate_until", [("a", {"until": ["\n"]})]))
    with pytest.raises(EvaluationError, match=r"continuation ' b b b.* of 'a' has \d+ tokens; the model reads 1 to 96"):
        model.loglikelihood(requests("loglikelihood", [("a", " b" * 200)]))


def test_prompts_of_longbench_are_cut_in_the_middle(hybrid: Subject, tmp_path: Path) -> None:
    """Its authors keep `prompt[:half] + prompt[-half:]`. The same prompt of another task is another request."""
    tokens = list(range(100))
    assert fitted(tokens, 40, "longbench_trec") == tokens[:20] + tokens[-20:]
    assert fitted(tokens, 41, "longbench_trec") == tokens[:21] + tokens[-20:]
    assert fitted(tokens, 40, "scrolls_qasper") == fitted(tokens, 40, None) == tokens[-40:]
    assert fitted(tokens, 100, "longbench_trec") == tokens
    settings = {"until": [], "max_gen_toks": 4}
    text = "".join(f"word {place} and " for place in range(30))
    tasks = ("longbench_trec", "scrolls_qasper", "longbench_trec")
    model = SidewinderLM(subject=hybrid, max_length=44, journal=Journal(tmp_path))
    model.generate_until([Instance("generate_until", {}, (text, settings), 0, (task, 0, 1)) for task in tasks])
    assert model.truncated == 3
    assert Journal(tmp_path).found == 2


def test_a_cut_prompt_of_longbench_is_answered_as_hf_answers_what_its_authors_leave(
    pair: tuple[SidewinderLM, HFLM], texts: list[str]
) -> None:
    """They tokenize the prompt, and decode its first and its last half that fit."""
    ours, theirs = pair
    settings = {"until": [], "max_gen_toks": 8, "do_sample": False}
    half = (ours.max_length - 8) // 2
    left: dict[str, str] = {}
    for text in texts:
        tokens = theirs.tokenizer(text, add_special_tokens=False).input_ids
        kept = theirs.tokenizer.decode(tokens[:half]) + theirs.tokenizer.decode(tokens[-half:])
        # Where the halves meet, their text may be other tokens than theirs.
        if len(tokens) > 2 * half and ours.tok_encode(kept) == [*tokens[:half], *tokens[-half:]]:
            left[text] = kept
    assert len(left) > 3
    asked = [
        Instance("generate_until", {}, (text, settings), at, ("longbench_hotpotqa", at, 1))
        for at, text in enumerate(left)
    ]
    wanted = requests("generate_until", [(kept, settings) for kept in left.values()])
    found = ours.generate_until(asked, disable_tqdm=True)
    assert ours.truncated == len(left)
    assert found == theirs.generate_until(wanted, disable_tqdm=True)


def test_prompts_that_were_cut_are_counted_again_on_resume(hybrid: Subject, tmp_path: Path) -> None:
    arguments = [
        (f"word {place} " * length, {"until": [], "max_gen_toks": 4}) for place, length in enumerate((1, 40, 50))
    ]
    for _ in range(2):
        model = SidewinderLM(subject=hybrid, max_length=30, journal=Journal(tmp_path))
        model.generate_until(requests("generate_until", arguments))
        assert model.truncated == 2
    assert model.journal.found == 3
