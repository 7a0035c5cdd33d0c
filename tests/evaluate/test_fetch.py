"""`sidewinder datasets fetch` against a hub on this machine, and what it finds that tasks need."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sidewinder.config.suites import Harness
from sidewinder.evaluate.fetch import fetch
from sidewinder.evaluate.local_data import LocalData
from sidewinder.evaluate.needs import needs

from .local_sets import arc, piqa, scrolls
from .small_hub import REVISION, hub

FETCH = """
import sys
from pathlib import Path
from sidewinder.config.suites import Harness
from sidewinder.errors import SidewinderError
from sidewinder.evaluate.fetch import fetch_all
try:
    fetch_all([Harness(kind="harness", tasks=sys.argv[2:])], Path(sys.argv[1]))
except SidewinderError as error:
    sys.exit(f"error: {error}")
"""


READ = """
import datasets
from sidewinder.evaluate.hub_data import HubData
from sidewinder.evaluate.local_data import reading
hub = HubData()
with reading(hub):
    print(len(datasets.load_dataset("baber/piqa")["train"]), hub.used)
    print(len(datasets.load_dataset(path="baber/piqa", name=None, split="validation")), hub.used)
"""


def fetched(into: Path, address: str, cache: Path, *tasks: str) -> subprocess.CompletedProcess[str]:
    return with_hub(address, cache, FETCH, str(into), *tasks)


def with_hub(address: str, cache: Path, *command: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """In a process of its own, because the hub's client reads its address when it is imported."""
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": str(int(offline)),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", *command], env=environment, capture_output=True, text=True, check=False
    )


def test_data_sets_are_fetched_with_their_revisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served, into = tmp_path / "served", tmp_path / "data"
    rng = random.Random(1)
    (served / "baber/piqa").mkdir(parents=True)
    for split in ("train", "validation"):
        lines = [json.dumps(piqa(rng, place)) + "\n" for place in range(6)]
        (served / "baber/piqa" / f"{split}.jsonl").write_text("".join(lines))
    (served / "allenai/ai2_arc/ARC-Easy").mkdir(parents=True)
    lines = [json.dumps(arc(rng, place)) + "\n" for place in range(5)]
    (served / "allenai/ai2_arc/ARC-Easy/test.jsonl").write_text("".join(lines))
    (served / "allenai/ai2_arc/README.md").write_text(
        "---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n  - {split: test, path: ARC-Easy/test.jsonl}\n---\n"
    )
    (served / "tau/scrolls").mkdir(parents=True)
    with zipfile.ZipFile(served / "tau/scrolls/qasper.zip", "w") as archive:
        for split in ("train", "validation"):
            archive.writestr(f"qasper/{split}.jsonl", json.dumps(scrolls(rng, 1)) + "\n")
    with hub(served) as address:
        tasks = ("piqa", "arc_easy", "scrolls_qasper", "winogrande")
        first = fetched(into, address, tmp_path / "cache", *tasks)
    assert first.returncode == 1
    assert "1 data sets could not be fetched:\n  allenai/winogrande/winogrande_xl: " in first.stderr
    assert fetch([Harness(kind="harness", tasks=["piqa"])], into) == {}
    assert f"baber/piqa/default: there already ({REVISION})" in capsys.readouterr().out
    manifest = json.loads((into / "manifest.json").read_text())["datasets"]
    assert {key: entry["revision"] for key, entry in manifest.items()} == dict.fromkeys(
        ("baber/piqa/default", "allenai/ai2_arc/ARC-Easy", "tau/scrolls/qasper"), REVISION
    )
    local = LocalData(into)
    assert local.load("allenai/ai2_arc", "ARC-Easy")["test"][0]["choices"]["label"] == list("ABCD")
    assert len(local.load("baber/piqa", None, "train")) == 6
    assert set(local.load("tau/scrolls", "qasper")["validation"].column_names) == {"id", "pid", "input", "output"}
    assert set(local.used.values()) == {REVISION}


def test_what_is_read_from_the_hub_has_its_revision_and_so_has_what_was_read_from_it_before(tmp_path: Path) -> None:
    """Where the hub cannot be asked, its client takes what it has kept."""
    (tmp_path / "served/baber/piqa").mkdir(parents=True)
    for split in ("train", "validation"):
        lines = [json.dumps(piqa(random.Random(place), place)) + "\n" for place in range(6)]
        (tmp_path / "served/baber/piqa" / f"{split}.jsonl").write_text("".join(lines))
    with hub(tmp_path / "served") as address:
        asked = with_hub(address, tmp_path / "cache", READ)
    kept = with_hub(address, tmp_path / "cache", READ, offline=True)
    told = f"6 {{'baber/piqa/default': '{REVISION}'}}\n"
    assert (asked.stdout, kept.stdout) == (told * 2, told * 2), asked.stderr + kept.stderr


def test_what_the_presets_need() -> None:
    def keys(**settings: object) -> set[str]:
        return {need.key for need in needs([Harness.model_validate({"kind": "harness"} | settings)])[0]}

    standard = keys(preset="standard")
    assert {key for key in standard if not key.startswith("cais/mmlu/")} == {
        "allenai/winogrande/winogrande_xl",
        "baber/piqa/default",
        "Rowan/hellaswag/default",
        "allenai/ai2_arc/ARC-Easy",
        "allenai/ai2_arc/ARC-Challenge",
        "allenai/openbookqa/main",
        "truthfulqa/truthful_qa/multiple_choice",
        "bigbio/pubmed_qa/pubmed_qa_labeled_fold0_source",
        "EleutherAI/race/high",
        "google-research-datasets/nq_open/default",
        "lighteval/squad_v2/default",
    }
    assert len(standard) == 11 + 57
    assert keys(preset="mmlu-formats") == {key for key in standard if key.startswith("cais/mmlu/")}
    long = keys(preset="long")
    assert len(long) == 9 + 3  # Nine tasks, the essays, two files of questions; look-ups need none.
    assert {"tau/scrolls/narrative_qa", "Xnhyacinth/LongBench/trec", "ruler/dev-v2.0.json"} <= long
    assert long - keys(preset="long", haystack="python") == {"baber/paul_graham_essays/default"}
