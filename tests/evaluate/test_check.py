"""`sidewinder check` looks for the tasks of the suites and their data before any work is done."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sidewinder.config.load import parse_study
from sidewinder.config.study import Study
from sidewinder.errors import DataError
from sidewinder.evaluate.check import check_data
from sidewinder.evaluate.task_index import manager_for
from sidewinder.record import file_digest

from .local_sets import piqa, scrolls, write


def study_of(data: Path | None, *tasks: str) -> Study:
    values: dict[str, Any] = {
        "study": "checked",
        "data": str(data) if data else None,
        "sources": {"text": {"reader": {"kind": "jsonl", "path": "unused"}}},
        "blend": {"text": 1.0},
        "models": {"toy": {"pattern": "*-", "hidden_size": 64}},
        "training": {
            "context_tokens": 64,
            "batch_sequences": 4,
            "budget_tokens": 10_000,
            "learning_rate": 1e-3,
            "minimum_learning_rate": 1e-4,
        },
        "suites": {"long": {"kind": "harness", "tasks": list(tasks)}, "heldout": {"kind": "bits_per_byte"}},
        "evaluate": ["long", "heldout"],
    }
    return parse_study(values)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with PIQA and Qasper, and a manifest of the former."""
    rng = random.Random(1)
    for split in ("train", "validation"):
        write(tmp_path, "baber/piqa", "default", split, [piqa(rng, place) for place in range(6)])
        write(tmp_path, "tau/scrolls", "qasper", split, [scrolls(rng, place) for place in range(2)])
    place = tmp_path / "baber/piqa/default"
    files = {file.name: {"sha256": file_digest(file), "bytes": file.stat().st_size} for file in place.glob("*.parquet")}
    manifest = {"datasets": {"baber/piqa/default": {"revision": "1", "files": files}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_what_is_there_passes(data: Path) -> None:
    assert check_data(study_of(data, "piqa", "scrolls_qasper", "sidewinder_cloze")) == 2
    assert check_data(study_of(None, "piqa", "arc_easy")) == 2, "without a folder the hub is asked, later"


def test_all_that_is_missing_or_unknown_is_named_with_the_remedy(data: Path) -> None:
    next((data / "baber/piqa/default").glob("validation*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(DataError) as raised:
        check_data(study_of(data, "piqa", "arc_easy", "ruler_qa_squad", "hellaswagg"))
    told = str(raised.value)
    assert "4 things" in told
    assert "suites.long: unknown lm-eval task 'hellaswagg'; near: hellaswag," in told
    assert "suites.long: piqa reads" in told
    assert "which has 4 bytes instead of" in told
    assert f"arc_easy reads allenai/ai2_arc/ARC-Easy, not at {data}/allenai/ai2_arc/ARC-Easy" in told
    assert "ruler_qa_squad reads ruler/dev-v2.0.json, not at" in told
    assert f"sidewinder datasets fetch --into {data}" in told


def test_a_wrong_name_alone_asks_for_a_right_one() -> None:
    with pytest.raises(
        DataError, match=r"(?s)unknown lm-eval task 'piqqa'; near: piqa,.*remedy: mend the names and shots$"
    ):
        check_data(study_of(None, "piqqa"))


def test_a_data_set_of_many_configurations_takes_one_line(data: Path) -> None:
    with pytest.raises(DataError) as raised:
        check_data(study_of(data, "mmlu"))
    assert str(raised.value).startswith(
        "1 thing wrong with what the suites name:\n  suites.long: mmlu reads 57 configurations of cais/mmlu "
        f"(abstract_algebra, …), not at {data}/cais/mmlu\n  remedy: "
    )


def test_an_absent_folder_takes_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        check_data(study_of(tmp_path / "nowhere", "mmlu", "piqa"))
    assert str(raised.value).startswith(
        f"1 thing wrong with what the suites name:\n  data: {tmp_path}/nowhere, from which 58 data sets are to be "
        "read, is no folder\n  remedy: "
    )


def test_shots_that_make_no_sense_are_named() -> None:
    study = study_of(None, "sidewinder_cloze")
    asked = {"task": "sidewinder_phonebook_reversed", "shots": [0, 2]}
    suites = {"long": {"kind": "harness", "tasks": [asked]}}
    with pytest.raises(
        DataError, match=r"suites.long: sidewinder_phonebook_reversed takes no shots, but 2 are asked for"
    ):
        check_data(parse_study(study.model_dump(mode="json") | {"suites": suites, "evaluate": ["long"]}))


def test_only_as_much_of_the_index_is_read_as_is_needed() -> None:
    assert len(manager_for(["sciq"]).all_tasks) < 10
    assert "mmlu_pro" in manager_for(["mmlu_pro"]).all_tasks  # In no folder of MMLU's, whatever its name.
