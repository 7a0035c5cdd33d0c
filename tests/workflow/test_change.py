"""A changed setting makes anew what it affects, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sidewinder.config.load import parse_study
from sidewinder.graph import Graph

ROOT = Path(__file__).parents[2]
SMALL = yaml.safe_load((ROOT / "tests" / "workflow" / "study.yaml").read_text())


def records(values: dict) -> set[str]:
    return {str(path) for path in Graph(parse_study(values)).records}


def new_folders(change: dict) -> set[str]:
    return records(SMALL | change) - records(SMALL)


def test_learning_rate_of_one_model_touches_that_model_only() -> None:
    models = SMALL["models"] | {"hybrid": SMALL["models"]["hybrid"] | {"training": {"learning_rate": 1e-3}}}
    made = new_folders({"models": models})
    assert made
    assert all("/runs/hybrid-s1-" in path for path in made)
    assert len(made) == 2 * (1 + 2 + 1)  # Pretraining and one extension, each with two suites and an export.


def test_extension_budget_leaves_pretraining_alone() -> None:
    extension = SMALL["extensions"][0] | {"budget_tokens": 20480}
    made = new_folders({"extensions": [extension]})
    assert {re.sub(r"-[0-9a-f]{8}", "", path.split("/")[3]) for path in made} == {"extend-128"}


def test_suite_touches_its_evaluations_only() -> None:
    suites = SMALL["suites"] | {"cloze": SMALL["suites"]["cloze"] | {"samples": 21}}
    made = new_folders({"suites": suites})
    assert len(made) == 3
    assert all("/eval/cloze-" in path for path in made)


def test_blend_touches_everything_but_the_corpus() -> None:
    made = new_folders({"blend": {"english": 0.6, "non_english": 0.25, "code": 0.15}})
    assert not any("/corpus/" in path for path in made)
    assert any("/tokenizer/" in path for path in made)
    assert any("/runs/" in path for path in made)


@pytest.mark.parametrize("change", [{"save_every_tokens": 9999}, {"keep_saves": 5}])
def test_settings_without_effect_make_nothing_new(change: dict) -> None:
    assert not new_folders({"training": SMALL["training"] | change})


def test_dry_run_lists_the_same_jobs(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"results": str(tmp_path / "results")}))
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", str(file)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    counted = dict(re.findall(r"^(\w+) +(\d+)$", out, flags=re.MULTILINE))
    assert counted["pretrain"] == "2"
    assert counted["extend"] == "1"
    assert counted["evaluate"] == "6"
    assert counted["export"] == "3"
    assert counted["cards"] == "1"
    assert not (tmp_path / "results").exists()


def test_a_task_that_does_not_exist_is_told_before_any_work(tmp_path: Path) -> None:
    suites = SMALL["suites"] | {"cloze": {"kind": "harness", "tasks": ["piqqa"]}}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"suites": suites, "results": str(tmp_path / "results")}))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"suites\.cloze: .*piqqa", done.stderr)
    assert not (tmp_path / "results" / "corpus").exists()
