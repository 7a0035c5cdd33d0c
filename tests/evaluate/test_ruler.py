"""RULER's 13 tasks: lengths, answers and scorers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from sidewinder.config.suites import Harness
from sidewinder.errors import EvaluationError
from sidewinder.evaluate import harness, loading, ruler
from sidewinder.evaluate.local_data import LocalData, MissingData
from sidewinder.evaluate.presets import RULER
from sidewinder.evaluate.ruler_tasks import Essay
from sidewinder.evaluate.samples import read_samples
from sidewinder.evaluate.subject import Subject
from sidewinder.evaluate.task_index import manager_for

from .local_sets import essay, hotpot_file, squad_file, write
from .players import Oracle, Player, Silent

LENGTHS = (4096, 8192, 16_384, 32_768, 65_536, 131_072)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RULER's essays, shorter than 128K tokens, and its two question files."""
    folder = tmp_path_factory.mktemp("ruler")
    write(folder, "baber/paul_graham_essays", "default", "train", [essay(random.Random(at), at) for at in range(12)])
    (folder / "ruler").mkdir()
    (folder / "ruler" / "dev-v2.0.json").write_text(json.dumps(squad_file(random.Random(1), 220)))
    (folder / "ruler" / "hotpot_dev_distractor_v1.json").write_text(json.dumps(hotpot_file(random.Random(2), 320)))
    return folder


@pytest.mark.parametrize("length", LENGTHS)
def test_prompts_fill_their_length_and_hold_the_answer(
    length: int, data: Path, tokenizer: SentencePieceProcessor
) -> None:
    for task in RULER:
        count = 3 if length == LENGTHS[0] else 1
        samples = ruler.make(task, length, count, tokenizer.encode, seed=3, data=LocalData(data))
        for sample in samples:
            prompt = ruler.prompt_of(task, sample)
            room = ruler.ROOM.get(task, 128)
            found = len(tokenizer.encode(prompt))
            assert 0.99 * (length - room) <= found <= length - room, (task, found)
            assert sample["length"] == found + room
            assert all(answer in sample["input"] for answer in sample["outputs"]), task
        assert len({sample["input"] for sample in samples}) == count


def test_samples_depend_on_seed_and_place_alone(data: Path, tokenizer: SentencePieceProcessor) -> None:
    def made(task: str, seed: int) -> Any:
        return ruler.make(task, 4096, 2, tokenizer.encode, seed=seed, data=LocalData(data))

    before = random.getstate()
    for task in ("niah_multivalue", "ruler_cwe", "ruler_fwe", "ruler_vt"):
        assert made(task, 1) == made(task, 1) != made(task, 2)
    assert random.getstate() == before


@pytest.mark.parametrize(("player", "wanted"), [(Oracle, 1.0), (Silent, 0.0)])
def test_scorers_give_all_to_the_right_answer_and_nothing_to_none(
    player: type[Player], wanted: float, data: Path, tokenizer: SentencePieceProcessor, tmp_path: Path, hybrid: Subject
) -> None:
    suite = Harness(kind="harness", tasks=list(RULER), samples=3, lengths_tokens=[4096], beyond=50)
    manager = manager_for(RULER)

    def model(subject: Subject, unit: Any, *others: Any) -> Player:
        return player(loading.load_unit(manager, unit, suite, subject, LocalData(data))["tasks"])

    outcome = harness.run(hybrid, suite, tmp_path, data=data, model=model)
    assert [(score.task, score.context_tokens, score.metric) for score in outcome.scores] == [
        (task, 4096, "score") for task in RULER
    ]
    assert {score.value for score in outcome.scores} == {wanted}
    sample = read_samples(outcome.sample_files[0])[0]
    assert sample["prompt"].endswith("mentioned in the provided text is")
    assert len(sample["prompt"]) > 5000
    assert sample["metrics"] == {"score": wanted}


def test_one_reference_of_several_is_enough() -> None:
    doc = {"max_length": 4096, "outputs": ["Ann Lee", "Lee", "the Lees"]}
    assert ruler_score(doc, "It was\x01 ann lee.") == 1.0
    assert ruler_score(doc, "It was Bob.") == 0.0


def ruler_score(doc: dict[str, Any], answer: str) -> float:
    from sidewinder.evaluate.ruler_tasks import best_reference

    return best_reference(doc, [answer])["4096"]


def test_what_is_missing_or_too_short_is_named(tmp_path: Path, tokenizer: SentencePieceProcessor) -> None:
    empty = LocalData(tmp_path)
    with pytest.raises(
        MissingData, match=r"data set baber/paul_graham_essays is not at .*\n  remedy: .*datasets fetch"
    ):
        ruler.make("niah_single_2", 4096, 1, tokenizer.encode, seed=1, data=empty)
    with pytest.raises(MissingData, match=r"file ruler/dev-v2.0.json is not at"):
        ruler.make("ruler_qa_squad", 4096, 1, tokenizer.encode, seed=1, data=empty)
    (sample,) = ruler.make("niah_single_2", 4096, 1, tokenizer.encode, seed=1, data=empty, haystack="python")
    assert "Python" in sample["input"]
    with pytest.raises(EvaluationError, match=r"ruler_cwe: no prompt fits in 180 tokens"):
        ruler.make("ruler_cwe", 300, 1, tokenizer.encode, seed=1)


def test_sentences_of_a_beginning_are_those_of_the_text() -> None:
    text = "One two.  Three four five. Six\nseven! Eight nine ten. "
    whole = Essay(text, lambda text: text.replace(". ", ".|").replace("! ", "!|").split("|"))
    for count in range(1, 25):
        beginning = " ".join(whole.words(count))
        assert " ".join(whole.sentences(beginning)) == beginning
    assert whole.sentences(" ".join(whole.words(5))) == ["One two.", "Three four five."]
    assert whole.sentences(" ".join(whole.words(4))) == ["One two.", "Three four"]
