"""Pretraining and extension as jobs: what they leave, what they take over, and when they do nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidewinder.config.load import parse_study
from sidewinder.errors import CheckpointError, CorruptArtifact, DataError, TrainingDiverged
from sidewinder.graph import Graph
from sidewinder.model.checkpoint import load_model, save_model
from sidewinder.record import Job, outputs_of, read_record
from sidewinder.train.device import prepare_inference
from sidewinder.train.extend import extend
from sidewinder.train.job import data_seed
from sidewinder.train.metrics import read_metrics
from sidewinder.train.pretrain import pretrain

Make = Callable[..., Any]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_pretrain_then_extend(make_graph: Make, stage_of: Make) -> None:
    graph = make_graph()
    first, second = stage_of(graph, "transformer"), stage_of(graph, "transformer", "extend")
    pretrain(graph, first)
    names = {path.name for path in first.folder.iterdir()}
    assert names == {"checkpoint", "config.json", "metrics.jsonl", "record.json", ".record.json", ".lock"}
    record = read_record(first.record)
    assert record["name"] == "transformer-s1/pretrain-32"
    assert [entry["role"] for entry in record["outputs"]] == ["checkpoint", "model_config", "metrics"]
    facts = record["facts"]
    assert facts["parameters"] == sum(p.numel() for p in load_model(first.folder / "checkpoint")[0].parameters())
    assert facts["parameters"] - facts["non_embedding_parameters"] == 2 * 300 * 16
    assert (facts["steps"], facts["tokens"]) == (12, 12 * 4 * 32)
    assert facts["final_loss"] == read_metrics(first.folder / "metrics.jsonl").steps[-1]["loss"]
    assert [attempt["from_step"] for attempt in facts["attempts"]] == [0]
    assert json.loads((first.folder / "config.json").read_text()) == first.resolved() | {"study": "tiny"}
    extend(graph, second)
    record = read_record(second.record)
    assert record["name"] == "transformer-s1/extend-64"
    parent = {entry.sha256 for entry in outputs_of(first.record) if entry.role == "checkpoint"}
    assert parent < {entry["sha256"] for entry in record["inputs"]}
    model, info = load_model(second.folder / "checkpoint")
    assert info.context_tokens == 64
    assert model.config.attention.rope is not None
    assert model.config.attention.rope.base == 40_000


def test_extension_starts_from_the_parents_weights(make_graph: Make, stage_of: Make) -> None:
    """Its first loss is that of the parent's weights on its data, at its own context and RoPE base."""
    graph = make_graph()
    first, second = stage_of(graph, "hybrid"), stage_of(graph, "hybrid", "extend")
    pretrain(graph, first)
    extend(graph, second)
    from sidewinder.tokens.loader import BlendLoader

    loader = BlendLoader(graph.blend / "blend.json", context_tokens=64, seed=data_seed(second), total_sequences=16)
    model, _ = load_model(first.folder / "checkpoint")
    inputs_BL, targets_BL = map(torch.from_numpy, loader.sequences(0, 4))
    with torch.no_grad():
        expected = model.loss(inputs_BL, targets_BL).item()
    assert read_metrics(second.folder / "metrics.jsonl").steps[0]["loss"] == pytest.approx(expected, rel=1e-6)


def test_second_call_does_nothing(make_graph: Make, stage_of: Make) -> None:
    graph = make_graph()
    stage = stage_of(graph, "mamba2")
    pretrain(graph, stage)
    before = snapshot(stage.folder)
    pretrain(graph, stage)
    assert snapshot(stage.folder) == before


def test_two_studies_are_equal_and_seeds_differ(tmp_path: Path, make_graph: Make, stage_of: Make) -> None:
    digests = []
    for name in ("one", "two"):
        graph = make_graph(tmp_path / name)
        stage = stage_of(graph, "hybrid")
        pretrain(graph, stage)
        digests.append([entry.sha256 for entry in outputs_of(stage.record) if entry.role != "metrics"])
    assert digests[0] == digests[1]
    graph = make_graph(tmp_path / "seeds")
    values = graph.study.model_dump() | {"seeds": [1, 2]}
    seeds = {
        (stage.model_name, stage.seed, stage.name.split("-")[0]): data_seed(stage)
        for stage in Graph(parse_study(values)).stages
    }
    assert len({seed for (_, study_seed, kind), seed in seeds.items() if (study_seed, kind) == (1, "pretrain")}) == 1
    assert len(set(seeds.values())) == 4  # two study seeds, two kinds of stage


@pytest.mark.parametrize(
    ("setting", "value"), [("micro_batch_sequences", 2), ("threads", 2), ("device", "cpu"), ("compile", True)]
)
def test_what_only_rounds_otherwise_is_the_same_run(make_graph: Make, setting: str, value: Any) -> None:
    graph = make_graph()
    values = graph.study.model_dump()
    values["training"] |= {setting: value}
    changed = Graph(parse_study(values))
    assert [stage.folder for stage in changed.stages] == [stage.folder for stage in graph.stages]
    values["training"] |= {"beta2": 0.9}
    assert not {stage.folder for stage in Graph(parse_study(values)).stages} & {stage.folder for stage in graph.stages}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which is then taken")
def test_what_trained_on_a_gpu_can_be_evaluated_without_one(make_graph: Make) -> None:
    training = make_graph().stages[0].training.model_copy(update={"device": "cuda", "compile": True})
    assert prepare_inference(training) == torch.device("cpu")


def test_too_little_text_is_refused_before_the_first_step(make_graph: Make, stage_of: Make) -> None:
    values = make_graph().study.model_dump() | {"repeat_at_most": 0.1}
    stage = stage_of(graph := Graph(parse_study(values)), "hybrid")
    with pytest.raises(DataError, match=r"hybrid-s1 pretrain-32: the text runs out .* through text 0\.\d times"):
        pretrain(graph, stage)
    assert not (stage.folder / "metrics.jsonl").exists()


def test_changed_data_never_resumes_old_state(
    make_graph: Make, stage_of: Make, make_trainer: Make, capsys: pytest.CaptureFixture
) -> None:
    """State of another identity in the stage's folder is moved aside and said so; the run starts at step 0."""
    graph = make_graph()
    stage = stage_of(graph, "mamba2")
    make_trainer(graph, stage, stage.folder).run()  # Identity aaaa…, as if the corpus had been another.
    pretrain(graph, stage)
    assert "saves of another configuration or corpus" in capsys.readouterr().err
    assert (stage.folder / "state-aaaaaaaa/step-00000012").is_dir()
    assert (stage.folder / "metrics-aaaaaaaa.jsonl").is_file()
    assert [entry["from_step"] for entry in read_record(stage.record)["facts"]["attempts"]] == [0]


def test_nan_in_the_parents_weights_stops_the_extension(make_graph: Make, stage_of: Make) -> None:
    graph = make_graph()
    first, second = stage_of(graph, "hybrid"), stage_of(graph, "hybrid", "extend")
    pretrain(graph, first)
    folder = first.folder / "checkpoint"
    model, _ = load_model(folder)
    with torch.no_grad():
        next(model.layers[0].parameters())[0] = float("nan")
    save_model(model, folder, context_tokens=32)
    with Job(first.folder, first.kind, "hybrid-s1/pretrain-32", {}, []) as job:
        job.output("checkpoint", folder / "model.safetensors")
    with pytest.raises(TrainingDiverged, match=r"loss nan.* at step 3 of 4; data position .*text.*no save yet"):
        extend(graph, second)
    assert not second.record.exists()


def test_damaged_inputs_are_named(make_graph: Make, stage_of: Make) -> None:
    graph = make_graph()
    first, second = stage_of(graph, "hybrid"), stage_of(graph, "hybrid", "extend")
    pretrain(graph, first)
    weights = first.folder / "checkpoint/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CorruptArtifact, match=f"checkpoint: {weights} does not have the digest"):
        extend(graph, second)
    (graph.blend / "blend.json").unlink()
    with pytest.raises(CorruptArtifact, match=r"blend\.json is missing"):
        pretrain(graph, stage_of(graph, "mamba"))


def test_checkpoint_that_cannot_be_written(make_graph: Make, stage_of: Make) -> None:
    """The last save is there, so the next start writes the checkpoint and trains no step again."""
    graph = make_graph()
    stage = stage_of(graph, "mamba2")
    stage.folder.mkdir(parents=True)
    (stage.folder / "checkpoint").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="cannot write"):
        pretrain(graph, stage)
    assert not stage.record.exists()
    (stage.folder / "checkpoint").unlink()
    pretrain(graph, stage)
    assert [entry["from_step"] for entry in read_record(stage.record)["facts"]["attempts"]] == [0, 12]
