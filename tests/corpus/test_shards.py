"""Text files: equal lines make equal bytes, long ones come back whole, and a failed write leaves what was there."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from sidewinder.corpus.shards import TextWriter, read_lines


def read(path: Path) -> list[bytes]:
    """Lines without their ends."""
    return [line.removesuffix(b"\n") for line in read_lines(path)]


def write(path: Path, lines: Iterable[bytes]) -> None:
    with TextWriter(path) as writer:
        for line in lines:
            writer.write(line)


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    rng = random.Random(1)
    lines = [rng.randbytes(rng.choice([0, 1, 80, 5000])).replace(b"\n", b"") for _ in range(3000)]
    lines.insert(7, b"x" * 30_000_000)
    for name in ("a", "b"):
        write(tmp_path / f"{name}.zst", lines)
    assert (tmp_path / "a.zst").read_bytes() == (tmp_path / "b.zst").read_bytes()
    assert read(tmp_path / "a.zst") == lines


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    write(tmp_path / "a.zst", [])
    assert read(tmp_path / "a.zst") == []


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    write(tmp_path / "a.zst", [b"{}"])

    def failing() -> Iterator[bytes]:
        yield b"[]"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a.zst", failing())
    assert [path.name for path in tmp_path.iterdir()] == ["a.zst"]
    assert read(tmp_path / "a.zst") == [b"{}"]
