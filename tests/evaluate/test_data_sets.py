"""Data sets of a folder and of the hub: what is read is what the record tells."""

from __future__ import annotations

import json
import random
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from sidewinder.config.suites import Harness
from sidewinder.errors import EvaluationError
from sidewinder.evaluate import harness, loading, ruler
from sidewinder.evaluate.hub_data import HubData
from sidewinder.evaluate.local_data import LocalData, MissingData
from sidewinder.evaluate.mendable import Mendable
from sidewinder.evaluate.presets import Unit
from sidewinder.evaluate.subject import Subject
from sidewinder.record import digest, file_digest

from .local_sets import piqa, squad_file, winogrande, write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for path, name, make in (("baber/piqa", "default", piqa), ("allenai/winogrande", "winogrande_xl", winogrande)):
        for split in ("train", "validation"):
            write(folder, path, name, split, [make(random.Random(at), at) for at in range(6)])
    return folder


def suite(**settings: Any) -> Harness:
    return Harness.model_validate({"kind": "harness"} | settings)


def test_data_that_is_not_what_was_fetched_is_named(data: Path) -> None:
    files = sorted((data / "baber/piqa/default").iterdir())
    entry = {"revision": "0123abcd", "files": {file.name: {"sha256": file_digest(file)} for file in files}}
    (data / "manifest.json").write_text(json.dumps({"format": 1, "datasets": {"baber/piqa/default": entry}}))
    local = LocalData(data)
    assert set(local.load("baber/piqa")) == {"train", "validation"}
    assert local.used == {"baber/piqa/default": "0123abcd"}
    with pytest.raises(MissingData, match=r"split test of data set baber/piqa is not at"):
        local.load("baber/piqa", None, "test")
    Dataset.from_list([{"goal": "other"}]).to_parquet(str(files[0]))
    with pytest.raises(EvaluationError, match=r"files of baber/piqa/default in .* are not those of its manifest"):
        LocalData(data).load("baber/piqa")
    (data / "manifest.json").unlink()
    files[0].write_bytes(b"PAR1 and no more")
    with pytest.raises(EvaluationError, match=r"cannot read .*piqa"):
        LocalData(data).load("baber/piqa")


class Branches:
    """A hub whose data sets are those of a folder: the newest revision of each, and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.data, self.asked = LocalData(folder), []
        self.newest = {"baber/piqa": "a" * 40, "allenai/winogrande": "b" * 40}

    def dataset_info(self, path: str, *, revision: str | None, timeout: float) -> Any:
        return SimpleNamespace(sha=self.newest[path])

    def load_dataset(self, path: str, name: str | None = None, *, revision: str | None, **settings: Any) -> Any:
        self.asked.append((path, revision))
        return self.data.load(path, name, settings.get("split"))


@pytest.fixture
def branches(data: Path, monkeypatch: pytest.MonkeyPatch) -> Branches:
    import datasets
    import huggingface_hub

    made = Branches(data)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(datasets, "load_dataset", made.load_dataset)
    return made


def test_data_of_the_hub_is_read_at_one_revision_which_is_recorded(
    hybrid: Subject, branches: Branches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = suite(tasks=[{"task": "piqa", "shots": [0, 1, 2]}, "winogrande"], samples=3)
    evaluated = harness._evaluated

    def killed(*given: Any) -> Any:
        if given[3].shots == 2:
            raise KeyboardInterrupt
        branches.newest["baber/piqa"] = "c" * 40  # After the first shots, and again after the suite was killed.
        return evaluated(*given)

    monkeypatch.setattr(harness, "_evaluated", killed)
    with pytest.raises(KeyboardInterrupt):
        harness.run(hybrid, asked, tmp_path / "a", identity="one")
    monkeypatch.setattr(harness, "_evaluated", evaluated)
    outcome = harness.run(hybrid, asked, tmp_path / "a", identity="one")
    assert branches.asked == [("baber/piqa", "a" * 40)] * 4 + [("allenai/winogrande", "b" * 40)]
    assert outcome.facts["datasets"] == {"baber/piqa/default": "a" * 40, "allenai/winogrande/winogrande_xl": "b" * 40}
    newest = harness.run(hybrid, asked, tmp_path / "b", identity="one")
    assert newest.facts["datasets"]["baber/piqa/default"] == "c" * 40


ZIP = "zip://qasper/train.jsonl::https://huggingface.co/datasets/tau/scrolls/resolve/{}/qasper.zip"
PROST = "hf://datasets/corypaik/prost{}/data/x.jsonl"
PROST_USED = {"corypaik/prost/data/x.jsonl": "e" * 40}


@pytest.mark.parametrize(
    ("path", "files", "read", "used"),
    [
        ("json", {"train": ZIP.format("main")}, {"train": ZIP.format("d" * 40)}, {"tau/scrolls/qasper": "d" * 40}),
        ("json", {"test": PROST.format("")}, {"test": PROST.format("@" + "e" * 40)}, PROST_USED),
        ("json", ["train.json"], ["train.json"], {}),
        ("baber/piqa", {"train": "dev/x.csv"}, {"train": "dev/x.csv"}, {"baber/piqa/default": "a" * 40}),
    ],
)
def test_files_of_the_hub_have_revisions_too(
    branches: Branches, path: str, files: Any, read: Any, used: dict[str, str]
) -> None:
    """SCROLLS' archives and others are named by their addresses, MMLU-SR's files by their places in the data set."""
    branches.newest |= {"tau/scrolls": "d" * 40, "corypaik/prost": "e" * 40}
    seen: list[Any] = []
    hub = HubData()
    hub.load_dataset(lambda *given, **settings: seen.append((given[0], settings)), path, data_files=files)
    revision = {"revision": "a" * 40} if "/" in path else {}
    assert seen == [(path, {"data_files": read} | revision)]
    assert hub.used == used


def test_the_hub_is_asked_once_of_a_data_set_also_where_it_is_silent(
    branches: Branches, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def silent(path: str, **settings: Any) -> Any:
        asked.append(path)
        raise TimeoutError

    monkeypatch.setattr(branches, "dataset_info", silent)
    hub = HubData()
    for name in ("anatomy", "virology", "anatomy"):
        hub.load_dataset(lambda *given, **settings: {}, "cais/mmlu", name)
    assert asked == ["cais/mmlu"]
    assert hub.used == dict.fromkeys(["cais/mmlu/anatomy", "cais/mmlu/virology"], "unknown")


def test_a_cache_with_another_revision_is_not_mixed_with_what_is_done(branches: Branches) -> None:
    """`datasets` gives what it has in its cache where the hub is out of reach, whichever revision is asked for."""
    cached = SimpleNamespace(cache_files=[{"filename": f"/cache/piqa/default/0.0.0/{'b' * 40}/piqa-test.arrow"}])
    hub = HubData()
    assert hub.unchanged({"baber/piqa/default": "a" * 40})
    with pytest.raises(Mendable, match=rf"baber/piqa/default is {'b' * 40} here, and was {'a' * 40} when"):
        hub.load_dataset(lambda *given, **settings: cached, "baber/piqa")
    assert HubData().load_dataset(lambda *given, **settings: cached, "baber/piqa") is cached


def test_a_file_of_questions_without_a_revision_is_recorded_by_its_content(
    hybrid: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loading._module("ruler/qa_utils.py")
    (address,) = signature(module.read_squad).parameters.values()
    content = {address.default: squad_file(random.Random(1), 20)}
    monkeypatch.setattr(module, "download_json", content.__getitem__)
    module.read_squad.cache_clear()
    monkeypatch.setattr(ruler, "DRAWS", 1)
    monkeypatch.setattr(
        loading, "_config", lambda manager, task: {"metric_list": [{}]}
    )  # Imports libraries for seconds.
    hub, unit = HubData(), Unit("ruler_qa_squad", 0, 400)
    loading._spec(None, unit, suite(tasks=[unit.task], samples=1), hybrid, hub)
    module.read_squad.cache_clear()
    assert hub.used == {"ruler/dev-v2.0.json": f"content:{digest(content[address.default])[:12]}"}
