"""Cutting sources into pieces: every document exactly once, however many shards, and a changed file is found out."""

import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.corpus.conftest import write_jsonl
from tests.corpus.reading import read, source

from sidewinder.corpus import pieces
from sidewinder.corpus.pieces import Piece, artifacts, divide, listing
from sidewinder.errors import DataError

ODD = [
    "a",
    "é",
    "\u2028",
    "\u0085",
    "\x0b",
    "\x1c",
    "\r",
    "\x00",
    "中文",
    "👩‍👩‍👧",
    "\ufeff",
    "ا",
    '"',
    "\\",
    "\u202e",
    " ",
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    pieces.forget()
    yield
    pieces.forget()


def odd_text(rng: random.Random) -> str:
    return "".join(rng.choice(ODD) for _ in range(rng.choice([1, 2, 7, 40, 300])))


def odd_jsonl(seed: int) -> tuple[bytes, list[str]]:
    """A file with odd characters, both kinds of line end, blank lines, sometimes no last line end; and its texts."""
    rng = random.Random(seed)
    texts = [odd_text(rng) for _ in range(rng.randint(1, 40))]
    content = b""
    for text in texts:
        line = json.dumps({"text": text}, ensure_ascii=rng.random() < 0.5).encode()
        content += line + rng.choice([b"\n", b"\r\n", b"\n\n", b"\n \r\n"])
    return (content.rstrip() if rng.random() < 0.5 else content), texts


@pytest.mark.parametrize("seed", range(12))
def test_cuts_of_json_lines_reassemble_to_the_same_documents(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "LEAST_PIECE_BYTES", 1)
    contents = [odd_jsonl(100 * seed + number) for number in range(1 + seed % 3)]
    for number, (content, _) in enumerate(contents):
        (tmp_path / f"{number}.jsonl").write_bytes(content)
    config = source(kind="jsonl", path=str(tmp_path))
    whole = read(config, 1)
    assert [document.text for document in whole.documents] == [text for _, texts in contents for text in texts]
    for shards in range(2, 8):
        assert read(config, shards).documents == whole.documents


@pytest.mark.parametrize("seed", range(6))
def test_cuts_of_text_lines_reassemble(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LEAST_PIECE_BYTES", 1)
    rng = random.Random(seed)
    texts = [odd_text(rng).rstrip("\r") or "x" for _ in range(30)]
    content = "".join(text + rng.choice(["\n", "\r\n"]) for text in texts)
    (tmp_path / "a.txt").write_text(content if seed % 2 else content.rstrip("\r\n"), newline="")
    config = source(kind="text", path=str(tmp_path / "a.txt"), documents="lines")
    expected = [text.removeprefix("\ufeff") if number == 0 else text for number, text in enumerate(texts)]
    for shards in range(1, 8):
        assert [document.text for document in read(config, shards).documents] == [text for text in expected if text]


def test_every_cut_between_two_bytes_gives_each_line_once(tmp_path: Path) -> None:
    content = b'{"text": "one"}\n{"text": "two"}\r\n\n{"text": "three"}'
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    config = source(kind="jsonl", path=str(path))
    for cut in range(1, len(content)):
        shards = [Piece(str(path), 0, cut, cut, "a.jsonl"), Piece(str(path), cut, None, len(content) - cut, "a.jsonl")]
        found = read(config, [[shard] for shard in shards]).documents
        assert [document.text for document in found] == ["one", "two", "three"], cut


def test_shards_are_contiguous_balanced_and_complete(tmp_path: Path) -> None:
    rng = random.Random(1)
    sizes = {f"{name:03d}.jsonl": rng.randint(1_000, 200_000) for name in range(50)}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    reader = source(kind="jsonl", path=str(tmp_path)).reader
    for count in (1, 2, 7, 50, 133):
        shards = divide(reader, count)
        place = [("", 0)]
        for piece in (piece for shard in shards for piece in shard):
            name, end = place[-1]
            assert (piece.name == name and piece.start == end) or (piece.name > name and piece.start == 0)
            place.append((piece.name, piece.end or sizes[piece.name]))
        assert sum(piece.size_bytes for shard in shards for piece in shard) == sum(sizes.values())
        bytes_of = [sum(piece.size_bytes for piece in shard) for shard in shards]
        assert max(bytes_of) < 1.3 * sum(sizes.values()) / count + 1024
        assert min(bytes_of) > 0.7 * sum(sizes.values()) / count - 1024


def test_compressed_files_stay_whole_and_too_many_shards_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        write_jsonl(tmp_path / f"{number}.jsonl.gz", [{"text": str(number) * 5000 * (1 + number)}])
    reader = source(kind="jsonl", path=str(tmp_path)).reader
    assert all(piece.whole for shards in (1, 2, 3) for shard in divide(reader, shards) for piece in shard)
    assert [len(shard) for shard in divide(reader, 3)] == [1, 1, 1]
    with pytest.raises(DataError, match=r"3 pieces, and shards is 4\n  remedy: set the source's shards to 3 or fewer"):
        divide(reader, 4)


def test_packages_are_divided_by_files_and_give_every_document_once() -> None:
    config = source(kind="packages", part="prose", packages=["Jinja2", "click"])
    whole = read(config, 1)
    assert len(whole.documents) > 100
    assert read(config, 5).documents == whole.documents
    (artifact, *_) = artifacts("x", config.reader, divide(config.reader, 1)[0])
    assert artifact.role == "package"


def test_digest_of_a_whole_file_is_its_sha256(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * 100}] * 50)
    reader = source(kind="jsonl", path=str(tmp_path)).reader
    (artifact,) = artifacts("x", reader, divide(reader, 1)[0])
    assert artifact.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (artifact.path, artifact.bytes) == (str(path), path.stat().st_size)


def test_a_change_alters_the_digest_of_exactly_the_parts_that_hold_it(tmp_path: Path) -> None:
    lines = [{"text": f"{number:04d}" * 20} for number in range(400)]
    path = write_jsonl(tmp_path / "a.jsonl", lines)
    reader = source(kind="jsonl", path=str(path)).reader
    before = [artifacts("x", reader, shard) for shard in divide(reader, 4)]
    lines[150] = {"text": "9999" * 20}
    write_jsonl(path, lines)
    after = [artifacts("x", reader, shard) for shard in divide(reader, 4)]
    changed = [number for number in range(4) if before[number] != after[number]]
    assert changed == [1]


def test_the_digest_of_a_part_reaches_to_the_end_of_its_last_line(tmp_path: Path) -> None:
    content = b'{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n'
    path = tmp_path / "a.jsonl"
    reader = source(kind="jsonl", path=str(path)).reader
    cut = 20  # Within the second line.
    parts = [Piece(str(path), 0, cut, cut, "a.jsonl"), Piece(str(path), cut, None, len(content) - cut, "a.jsonl")]

    def digests(content: bytes) -> list[str]:
        path.write_bytes(content)
        return [artifact.sha256 for artifact in artifacts("x", reader, parts)]

    before = digests(content)
    assert digests(content.replace(b"two", b"owt"))[0] != before[0]
    assert digests(content.replace(b"three", b"eerht"))[0] == before[0]
    assert digests(content.replace(b"three", b"eerht"))[1] != before[1]


@pytest.mark.parametrize("change", ["longer", "same size", "gone"])
def test_a_file_that_changed_after_it_was_listed_is_refused_by_name(tmp_path: Path, change: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    config = source(kind="jsonl", path=str(tmp_path))
    divide(config.reader, 1)
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"one", b"two" if change == "same size" else b"three"))
        os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=r"a\.jsonl (has changed|is gone) since it was counted"):
        read(config, 1)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    config = source(kind="jsonl", path=str(tmp_path))
    from sidewinder.corpus.read import reader

    documents = reader(config, divide(config.reader, 1)[0]).run()
    next(documents)
    path.write_bytes(b"{}" * 100)
    with pytest.raises(DataError, match="has changed since it was counted"):
        list(documents)


def test_the_walk_takes_what_matches_once_and_leaves_hidden_files(tmp_path: Path) -> None:
    for name in ("b/x.jsonl", "a.jsonl.gz", ".hidden.jsonl", ".cache/y.jsonl", "b/notes.txt", "c.ndjson.zst"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"x")
    (tmp_path / "data" / "b" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.jsonl").write_bytes(b"x")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")

    def names(**reader: Any) -> list[str]:
        return [entry.name for entry in listing(source(**reader).reader)]

    data = str(tmp_path / "data")
    assert names(kind="jsonl", path=data) == ["a.jsonl.gz", "b/x.jsonl", "c.ndjson.zst", "link/z.jsonl"]
    assert names(kind="jsonl", path=f"{data}/*/?.jsonl") == ["b/x.jsonl", "link/z.jsonl"]
    assert names(kind="text", path=f"{data}/**/*.txt") == ["b/notes.txt"]
    assert names(kind="text", path=data) == ["b/notes.txt"]
    assert names(kind="jsonl", path=f"{data}/b/x.jsonl") == ["x.jsonl"]


def test_a_listing_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}])
    reader = source(kind="jsonl", path=str(tmp_path)).reader
    first = listing(reader)
    write_jsonl(tmp_path / "b.jsonl", [{"text": "x"}])
    assert listing(reader) is first
    pieces.forget()
    assert [entry.name for entry in listing(reader)] == ["a.jsonl", "b.jsonl"]
