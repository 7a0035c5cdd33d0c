"""Shard files: equal lines make equal bytes, and damage is named."""

from pathlib import Path

import pytest

from sidewinder.corpus.shards import read_shard, write_shard
from sidewinder.errors import CorruptArtifact


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    lines = [b'{"id":"%d","text":"caf\xc3\xa9 \\n\\u0000"}' % number for number in range(100)]
    for name in ("a", "b"):
        write_shard(tmp_path / f"{name}.jsonl.gz", lines)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert [document["text"] for document in read_shard(tmp_path / "a.jsonl.gz")] == ["café \n\0"] * 100


@pytest.mark.parametrize("damage", ["truncate", "overwrite", "remove"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "train-00000.jsonl.gz"
    write_shard(path, [b'{"id":"%d","text":"some text"}' % number for number in range(5000)])
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-40] if damage == "truncate" else b"no gzip" + content)
    with pytest.raises(CorruptArtifact, match=r"train-00000\.jsonl\.gz"):
        list(read_shard(path))


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.jsonl.gz"
    write_shard(path, [b"{}"])

    def failing() -> object:
        yield b"{}"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_shard(path, failing())  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.jsonl.gz"]
    assert list(read_shard(path)) == [{}]
