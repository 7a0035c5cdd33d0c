"""sidewinder tokens inspect: what a file says at any position, which documents there are, what was altered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tokenizer.conftest import ODD
from typer.testing import CliRunner

from sidewinder.cli import app
from sidewinder.errors import CorruptArtifact, DataError
from sidewinder.graph import Graph
from sidewinder.tokens.blend import write_blend
from sidewinder.tokens.encode import encode_shard
from sidewinder.tokens.indexed import IndexedReader, IndexedWriter
from sidewinder.tokens.inspect import open_tokens


@pytest.fixture(scope="module")
def encoded(prepared: Graph) -> Graph:
    for source in prepared.source_configs:
        for shard in prepared.shards(source):
            encode_shard(prepared, source, shard)
    write_blend(prepared, prepared.blend)
    return prepared


def said(*arguments: object) -> Any:
    done = CliRunner().invoke(app, ["tokens", "inspect", *map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_any_position_decodes(encoded: Graph) -> None:
    folder = encoded.tokens("english", "train-00000")
    reader, files = IndexedReader(folder / "tokens"), open_tokens(folder)
    starts = np.cumsum([0, *reader.sizes])
    for position in (0, 1, int(starts[3]) - 1, int(starts[3]), int(starts[3]) + 1, reader.n_tokens - 1):
        found = files.at(position, 20)
        document = int(np.searchsorted(starts, position, side="right")) - 1
        assert found["ids"] == reader.tokens[position : position + 20].tolist()
        assert (found["document"], found["position_in_document"]) == (document, position - starts[document])
        assert found["text"] == files.tokenizer.decode(found["ids"])  # type: ignore[union-attr]
    with pytest.raises(DataError, match=rf"no position {reader.n_tokens:,}: there are {reader.n_tokens:,}"):
        files.at(reader.n_tokens, 1)


def test_documents_of_odd_characters_read_as_they_were(encoded: Graph) -> None:
    folder = encoded.tokens("odd", "heldout-00000")
    total = said(folder)["shards"][0]["documents"]
    for number in range(total):
        (read,) = said(folder, "--document", number)["read"]
        assert read["text"].rsplit(" ", 1)[0] in ODD
        assert read["pieces"][-1] == "</s>"
    listed = said(folder, "--documents", total - 2, "--count", 50)["documents"]
    assert [entry["document"] for entry in listed] == [total - 2, total - 1]


@pytest.mark.parametrize("name", ["", "tokens", "tokens.bin", "tokens.idx"])
def test_a_shard_by_any_of_its_names(encoded: Graph, name: str) -> None:
    folder = encoded.tokens("other", "train-00000")
    assert said(folder / name)["shards"] == said(folder)["shards"]


def test_a_blend_is_its_shards_in_order(encoded: Graph) -> None:
    shards = said(encoded.blend / "blend.json")["shards"]
    names = [f"{source}/{shard}" for source in encoded.study.weights for shard in encoded.shards(source)]
    assert sorted(shard["shard"] for shard in shards) == sorted(names)
    assert said(encoded.blend, "--shard", "english/train")["shards"] == [
        shard for shard in shards if shard["shard"].startswith("english/train")
    ]
    first = said(encoded.blend, "--shard", "english/train-00000")["shards"][0]
    found = said(encoded.blend, "--shard", "english/train", "--at", first["tokens"], "--count", 5)["at"]
    assert (found["shard"], found["position_in_shard"], found["document"]) == (
        "english/train-00001",
        0,
        first["documents"],
    )
    read = said(encoded.blend, "--shard", "english/train", "--document", first["documents"])["read"][0]
    assert read["ids"][:5] == found["ids"]


def test_digests_are_compared(encoded: Graph, tmp_path: Path) -> None:
    verified = said(encoded.blend, "--verify")["verified"]
    assert len(verified) == 2 * len(said(encoded.blend)["shards"]) + 1
    assert {entry["equal"] for entry in verified} == {True}
    folder = tmp_path / "moved"
    shutil.copytree(encoded.tokens("english", "train-00001"), folder)
    assert {entry["equal"] for entry in said(folder, "--verify")["verified"]} == {True}
    content = bytearray((folder / "tokens.bin").read_bytes())
    content[100] ^= 1
    (folder / "tokens.bin").write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"not as recorded:\n  .*tokens\.bin has digest"):
        open_tokens(folder).verify()


def test_files_without_a_record(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "some", np.uint16) as writer:
        writer.add([5, 6, 2])
    assert said(tmp_path / "some", "--at", 1)["at"]["ids"] == [6, 2]
    assert {entry["equal"] for entry in said(tmp_path / "some.bin", "--verify")["verified"]} == {None}
    with pytest.raises(DataError, match="no tokenized shard and no blend"):
        open_tokens(tmp_path)
    with pytest.raises(DataError, match="no shard that begins with 'x'"):
        open_tokens(tmp_path / "some", "x")


@pytest.mark.parametrize("options", [[], ["--at", "7"], ["--document", "0"], ["--documents", "0"], ["--verify"]])
def test_for_people(encoded: Graph, options: list[str]) -> None:
    done = CliRunner().invoke(app, ["tokens", "inspect", str(encoded.blend), *options], catch_exceptions=False)
    assert done.exit_code == 0
    assert "english" in done.stdout


def test_the_stage_needs_a_folder() -> None:
    done = CliRunner().invoke(app, ["tokens"])
    assert done.exit_code == 2
    assert "sidewinder tokens inspect PATH" in " ".join(done.output.split()).replace("│ │ ", "")
