"""Suites as jobs on a small study: what they leave, what they skip, and what stops them."""

from __future__ import annotations

import json
import random
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidewinder.config.load import parse_study
from sidewinder.errors import CheckpointError, CorruptArtifact, EvaluationError
from sidewinder.evaluate.ranks import Ranks
from sidewinder.evaluate.run import PARTS, evaluate, subject_of
from sidewinder.evaluate.samples import read_samples
from sidewinder.graph import Graph, Stage
from sidewinder.record import RECORD, Artifact, check, read_record

from .local_sets import piqa, write

FIELDS = {"task", "metric", "value", "stderr", "n", "context_tokens", "variant"}


def stage_of(graph: Graph, model: str) -> Stage:
    return next(stage for stage in graph.stages if stage.model_name == model)


@pytest.mark.parametrize("suite", ["heldout", "phonebook", "needle", "cloze", "cloze_block"])
def test_a_suite_leaves_scores_samples_and_a_record(graph: Graph, suite: str) -> None:
    stage = stage_of(graph, "hybrid")
    evaluate(graph, stage, suite)
    folder = graph.evaluation(stage, suite)
    scores = json.loads((folder / "scores.json").read_text())
    samples = read_samples(folder / "samples.parquet")
    record = read_record(folder / RECORD)
    assert (scores["suite"], scores["kind"]) == (suite, graph.study.suites[suite].kind)
    assert scores["scores"]
    assert all(set(score) == FIELDS for score in scores["scores"])
    assert len(samples) == record["facts"]["samples"] > 0
    assert record["kind"] == "evaluate"
    assert record["name"] == f"hybrid-s1/pretrain-96/{suite}"
    roles = {entry["role"] for entry in record["inputs"]}
    assert {"checkpoint", "model_config", "tokenizer"} <= roles
    assert ({"blend", "bin", "idx"} <= roles) == (suite in ("heldout", "cloze", "cloze_block"))
    for entry in record["outputs"]:
        check(Artifact(**entry), deep=True)


def test_lengths_follow_the_context(graph: Graph) -> None:
    stage = stage_of(graph, "mamba")
    evaluate(graph, stage, "needle")
    folder = graph.evaluation(stage, "needle")
    assert {score["context_tokens"] for score in json.loads((folder / "scores.json").read_text())["scores"]} == {384}
    left_out = read_record(folder / RECORD)["facts"]["lengths_left_out"]
    assert left_out["9999"] == "beyond 4 x the context of 96 tokens"
    assert "the shortest prompt" in left_out["64"]


def test_a_finished_suite_is_not_repeated_and_a_repeated_one_is_equal(graph: Graph) -> None:
    stage = stage_of(graph, "mamba2")
    files = [graph.evaluation(stage, "phonebook") / name for name in ("scores.json", "samples.parquet")]
    evaluate(graph, stage, "phonebook")
    before, times = [path.read_bytes() for path in files], [path.stat().st_mtime_ns for path in files]
    evaluate(graph, stage, "phonebook")
    assert [path.stat().st_mtime_ns for path in files] == times
    files[0].unlink()
    evaluate(graph, stage, "phonebook")
    assert [path.read_bytes() for path in files] == before


def test_damage_is_named_and_leaves_no_record(graph: Graph) -> None:
    stage = stage_of(graph, "transformer")
    weights = stage.folder / "checkpoint" / "model.safetensors"
    whole = weights.read_bytes()
    record = graph.evaluation(stage, "phonebook") / RECORD
    try:
        weights.write_bytes(whole[:1000])
        with pytest.raises(CorruptArtifact, match=r"checkpoint: .*model.safetensors has 1,000 bytes instead of"):
            evaluate(graph, stage, "phonebook")
        weights.write_bytes(b"\xff" * len(whole))
        with pytest.raises(CheckpointError, match="cannot read the weights"):
            evaluate(graph, stage, "phonebook")
        tensors = load_file(_restored(weights, whole))
        tensors["head.weight"] = torch.full_like(tensors["head.weight"], float("nan"))
        save_file(tensors, weights, metadata={"format": "pt"})
        with pytest.raises(EvaluationError, match=r"log-likelihood of standard book \d of 64 tokens .* is nan"):
            evaluate(graph, stage, "phonebook")
        assert not record.exists()
    finally:
        weights.write_bytes(whole)
    evaluate(graph, stage, "phonebook")
    assert record.exists()


def unfinished(graph: Graph, data: Path) -> tuple[Graph, Stage, Path]:
    """A suite that lacks the data of one of its tasks; the part of the other, its score altered so that one that is
    made again is told apart; and then the data."""
    suite = {"kind": "harness", "tasks": ["sidewinder_phonebook", "piqa"], "samples": 4, "lengths_tokens": [80]}
    values = graph.study.model_dump(mode="json") | {"data": str(data), "suites": {"own": suite}, "evaluate": ["own"]}
    own = Graph(parse_study(values))
    stage = stage_of(own, "hybrid")
    folder = own.evaluation(stage, "own")
    for _ in range(2):
        with pytest.raises(
            EvaluationError, match=r"(?s)not finished.*piqa-0shot: data set baber/piqa is not at.*fetch"
        ):
            evaluate(own, stage, "own")
        assert not (folder / RECORD).exists()
    (done,) = folder.rglob("sidewinder_phonebook-0shot-80.json")
    part = json.loads(done.read_text())
    part["scores"][0]["value"] = 0.125
    done.write_text(json.dumps(part))
    rows = [piqa(random.Random(at), at) for at in range(6)]
    for split in ("train", "validation"):
        write(data, "baber/piqa", "default", split, rows)
    (data / "manifest.json").write_text(json.dumps({"format": 1, "datasets": {}}))
    return own, stage, folder


def test_a_suite_without_its_data_is_not_finished_and_later_does_only_the_rest(graph: Graph, tmp_path: Path) -> None:
    own, stage, folder = unfinished(graph, tmp_path)
    evaluate(own, stage, "own")
    scores = json.loads((folder / "scores.json").read_text())["scores"]
    assert {score["task"] for score in scores} == {"sidewinder_phonebook", "piqa"}
    assert scores[0]["value"] == 0.125
    assert "data" in {entry["role"] for entry in read_record(folder / RECORD)["inputs"]}
    assert not (folder / PARTS).exists()


def test_parts_of_another_lm_eval_are_done_again(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version
    with monkeypatch.context() as earlier:
        earlier.setattr(metadata, "version", lambda name: "0.4.0" if name == "lm-eval" else installed(name))
        own, stage, folder = unfinished(graph, tmp_path)
    evaluate(own, stage, "own")
    told = json.loads((folder / "scores.json").read_text())
    assert told["versions"]["lm-eval"] == installed("lm-eval")
    assert told["scores"][0]["value"] != 0.125
    assert not (folder / PARTS).exists()


def _restored(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_tokenizer_other_than_the_one_trained_with_is_refused(graph: Graph) -> None:
    stage = graph.stages[0]
    path = stage.folder / "checkpoint/model.json"
    before = path.read_text()
    description = json.loads(before)
    description["extra"]["tokenizer_sha256"] = "0" * 64
    path.write_text(json.dumps(description))
    try:
        with pytest.raises(CheckpointError, match=r"tokenizer of digest 0{64}, but the one given has [0-9a-f]{64}"):
            subject_of(graph, stage, graph.study.suites["phonebook"], Ranks())
    finally:
        path.write_text(before)
    assert subject_of(graph, stage, graph.study.suites["phonebook"], Ranks()).model
