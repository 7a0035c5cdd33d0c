"""A tokenizer of one's own: read from its file, copied with its digest, refused where documents could not be ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tokenizer.conftest import study_values
from tests.tokenizer.real_text import code, train
from tests.tokenizer.test_encoder import hugging_face
from tokenizers import Tokenizer

from sidewinder.config.load import load_study, parse_study, write_study
from sidewinder.errors import ConfigError, CorruptArtifact
from sidewinder.graph import Graph
from sidewinder.record import file_digest, read_record
from sidewinder.tokenizer import load, piece_bytes
from sidewinder.tokenizer.train import train_tokenizer

GraphWith = Callable[[Any], Graph]


@pytest.fixture
def graph_with(corpus: Path) -> GraphWith:
    """The small study with another value of `tokenizer`."""
    return lambda tokenizer: Graph(parse_study(study_values(corpus) | {"tokenizer": tokenizer}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.model"
    path.write_bytes(train(code(200), vocab_size=777))
    return path


def test_a_path_is_all_that_a_study_says(graph_with: GraphWith, model: Path) -> None:
    graph = graph_with(str(model))
    assert (graph.study.tokenizer.vocab_size, graph.study.tokenizer.sha256) == (777, file_digest(model))
    assert graph.study == graph_with({"path": str(model)}).study
    train_tokenizer(graph)
    record = read_record(graph.tokenizer / "record.json")
    assert (graph.tokenizer / "tokenizer.model").read_bytes() == model.read_bytes()
    assert [(entry["role"], entry["sha256"]) for entry in record["outputs"]] == [("tokenizer", file_digest(model))]
    assert record["facts"]["vocab_size"] == 777
    assert set(record["facts"]["tokens_per_byte"]) == {"english", "other", "odd", "lookup"}
    assert record["facts"]["round_trip_changed"] == 0
    assert "sample_bytes" not in record["facts"]


def test_a_study_that_is_written_and_read_again_is_the_same(graph_with: GraphWith, model: Path, tmp_path: Path) -> None:
    study = graph_with(str(model)).study
    write_study(study, tmp_path / "study.json")
    assert load_study(tmp_path / "study.json") == study


def test_a_moved_file_is_the_same_tokenizer_and_another_is_not(
    model: Path, tmp_path: Path, graph_with: GraphWith
) -> None:
    moved, other = tmp_path / "moved.model", tmp_path / "other.model"
    shutil.copyfile(model, moved)
    other.write_bytes(train(code(250), vocab_size=777))
    own, same, unlike = (graph_with(str(path)).study.tokenizer.identity for path in (model, moved, other))
    assert own == same != unlike


def test_a_tokenizer_json_of_hugging_face(graph_with: GraphWith, tmp_path: Path) -> None:
    graph = graph_with(str(hugging_face(tmp_path)))
    train_tokenizer(graph)
    assert (graph.tokenizer / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    tokenizer, theirs = load(graph.tokenizer), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_piece_size() == graph.study.tokenizer.vocab_size == theirs.get_vocab_size()
    assert tokenizer.id_to_piece(tokenizer.eos_id()) == "<|endoftext|>"
    assert read_record(graph.tokenizer / "record.json")["facts"]["round_trip_changed"] == 0
    text = "def f(x):\n\treturn 'ä 日本 😀'\0"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(piece_bytes(tokenizer, token) for token in ids) == text.encode()
    assert piece_bytes(tokenizer, tokenizer.eos_id()) == b""


def test_files_beside_a_tokenizer_json_name_its_control_tokens(graph_with: GraphWith, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(hugging_face(tmp_path) / "tokenizer.json"))
    tokenizer.add_special_tokens(["<stop>", "<go>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"eos_token": {"content": "<stop>", "special": True}, "bos_token": "<go>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    graph = graph_with(str(tmp_path))
    train_tokenizer(graph)
    loaded = load(graph.tokenizer)
    assert [loaded.id_to_piece(token) for token in (loaded.eos_id(), loaded.bos_id())] == ["<stop>", "<go>"]
    named = graph_with({"path": str(tmp_path), "eos": "<go>"})
    train_tokenizer(named)
    loaded = load(named.tokenizer)
    assert loaded.id_to_piece(loaded.eos_id()) == "<go>"
    assert named.study.tokenizer.identity != graph.study.tokenizer.identity


def test_text_that_does_not_come_back_is_told(
    graph_with: GraphWith, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lossy.model"
    path.write_bytes(
        train(code(200), vocab_size=777, normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    )
    graph = graph_with(str(path))
    train_tokenizer(graph)
    facts = read_record(graph.tokenizer / "record.json")["facts"]
    assert 0 < facts["round_trip_changed"] < facts["round_trip_documents"]
    assert f"{facts['round_trip_changed']} of {facts['round_trip_documents']} held-out" in capsys.readouterr().err


def _without_eos(folder: Path) -> Any:
    (folder / "t.model").write_bytes(train(code(200), vocab_size=777, eos_id=-1))
    return str(folder / "t.model")


def _json_without_eos(folder: Path) -> Any:
    content = (hugging_face(folder) / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content.replace("<|endoftext|>", "<|other|>"))
    return str(folder)


def _unknown_eos(folder: Path) -> Any:
    return {"path": str(hugging_face(folder)), "eos": "<nothing>"}


def _other_eos(folder: Path) -> Any:
    (folder / "t.model").write_bytes(train(code(200), vocab_size=777))
    return {"path": str(folder / "t.model"), "eos": "<s>"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_without_eos, r"t\.model has no piece that ends a document"),
        (_json_without_eos, r"tokenizer\.json has no piece that ends a document(.|\n)*tokenizer\.eos"),
        (_unknown_eos, r"tokenizer\.json has no piece '<nothing>'"),
        (_other_eos, r"'<s>' is not the end that .*t\.model has"),
    ],
)
def test_documents_that_could_not_be_ended(
    make: Callable[[Path], Any], says: str, graph_with: GraphWith, tmp_path: Path
) -> None:
    graph = graph_with(make(tmp_path))
    with pytest.raises(ConfigError, match=says):
        train_tokenizer(graph)
    assert not (graph.tokenizer / "record.json").exists()


def test_a_file_that_changed_after_the_study_was_read(graph_with: GraphWith, tmp_path: Path) -> None:
    path = tmp_path / "t.model"
    path.write_bytes(train(code(230), vocab_size=777))
    graph = graph_with(str(path))
    path.write_bytes(train(code(260), vocab_size=777))
    with pytest.raises(ConfigError, match=r"t\.model is not the file that the study was read with"):
        train_tokenizer(graph)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("missing.model", "missing.model"),
        ({"path": "OWN", "vocab_size": 800}, "has 777 pieces, not 800"),
        ({"path": "OWN", "sample_bytes": 100_000, "seed": 3}, "sample_bytes and seed say how to train"),
        ({"path": "OWN", "sise": 1}, "sise"),
        (17, "tokenizer"),
    ],
)
def test_settings_that_cannot_be(value: Any, says: str, graph_with: GraphWith, model: Path) -> None:
    if isinstance(value, dict):
        value = value | {"path": str(model)}
    with pytest.raises(ConfigError, match=says):
        graph_with(value)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "None"}}'])
def test_a_json_that_is_no_tokenizer(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(CorruptArtifact, match=r"tokenizer\.json"):
        load(path)
