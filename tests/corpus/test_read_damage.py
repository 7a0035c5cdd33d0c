"""What is broken is counted or refused by name, what was readable is kept, and reading goes on with the next file."""

import bz2
import gzip
import json
import lzma
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from tests.corpus.conftest import sentence, write_jsonl
from tests.corpus.reading import read, source

from sidewinder.corpus import pieces
from sidewinder.errors import DataError

GOOD = [sentence(number) for number in range(2000)]
LINES = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in GOOD)
AFTER = "the file after the damaged one"


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    pieces.forget()
    yield
    pieces.forget()


def damaged_then_good(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    write_jsonl(folder / "z.jsonl", [{"text": AFTER}])


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("share", [0.35, 0.9])
def test_a_truncated_file_gives_what_was_readable(tmp_path: Path, compress, share: float) -> None:  # type: ignore[no-untyped-def]
    suffix = {"gzip": ".gz", "zstandard": ".zst", "lzma": ".xz", "bz2": ".bz2"}[compress.__module__.split(".")[0]]
    content = compress(LINES)
    damaged_then_good(tmp_path, f"a.jsonl{suffix}", content[: int(len(content) * share)])
    found = read(source(kind="jsonl", path=str(tmp_path)))
    assert found.texts == [*GOOD[: len(found.texts) - 1], AFTER]
    assert found.counts["bad_documents"] == 1
    assert 0 < found.counts["bad_bytes"] <= len(content)
    assert found.reasons[0].startswith(f"a.jsonl{suffix}: unreadable from here on: ")


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
@pytest.mark.parametrize("lost", [1, 4, 9])
def test_a_file_that_lacks_its_last_bytes_gives_all_lines_and_is_counted(
    tmp_path: Path, suffix: str, compress, lost: int
) -> None:  # type: ignore[no-untyped-def]
    content = (
        compress(LINES) if suffix == ".gz" else zstandard.ZstdCompressor(write_checksum=True, level=1).compress(LINES)
    )
    (tmp_path / f"a.jsonl{suffix}").write_bytes(content[:-lost])
    found = read(source(kind="jsonl", path=str(tmp_path)))
    assert found.counts["bad_documents"] == 1
    assert found.texts == GOOD[: len(found.texts)]
    assert len(found.texts) > (len(GOOD) - 10 if suffix == ".gz" else 0)


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_of_a_corrupt_member_the_members_before_it_are_kept(tmp_path: Path, suffix: str, compress) -> None:  # type: ignore[no-untyped-def]
    members = [compress(LINES[begin : begin + 60_000]) for begin in range(0, len(LINES), 60_000)]
    spoilt = bytearray(members[4])
    spoilt[len(spoilt) // 2 : len(spoilt) // 2 + 200] = b"\xff" * 200
    damaged_then_good(tmp_path, f"a.jsonl{suffix}", b"".join([*members[:4], bytes(spoilt), *members[5:]]))
    found = read(source(kind="jsonl", path=str(tmp_path)))
    kept = found.texts[:-1]
    assert found.texts[-1] == AFTER
    assert kept[:500] == GOOD[:500]
    assert LINES[:240_000].count(b"\n") - 1 <= len(kept) < len(GOOD)
    assert found.counts["bad_documents"] + found.counts["read_documents"] <= len(kept) + 1 + 20


@pytest.mark.parametrize(
    "name", ["a.jsonl.gz", "a.jsonl.zst", "a.jsonl.xz", "a.jsonl.bz2", "a.parquet", "a.arrow", "a.jsonl.gz-empty"]
)
def test_a_file_of_another_format_is_counted_whole(tmp_path: Path, name: str) -> None:
    content = b"" if name.endswith("-empty") else b"This is something else entirely.\n"
    damaged_then_good(tmp_path, name.removesuffix("-empty"), content)
    found = read(source(kind="huggingface", path=str(tmp_path)))
    assert found.texts == [AFTER]
    assert (found.counts["bad_documents"], found.counts["bad_bytes"]) == ((1, len(content)) if content else (0, 0))


def test_bad_lines_are_counted_with_their_bytes_and_named(tmp_path: Path) -> None:
    bad = [
        b'{"text": "caf\xe9"}',
        b'{"text": "cut off',
        b'{"body": "no text here"}',
        b"[1, 2]",
        b'"text"',
        b'{"text": 7}',
        b'{"text": null}',
        b'{"text": "\\ud800 lone surrogate"}',
        b'{"text": "raw \x00 NUL"}',
        b"{} {}",
    ]
    lines = [b'{"text": "first"}', *bad, b"", b"   ", b'{"text": ""}', b'{"text": "NUL \\u0000 is kept"}', b"\x00"]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    found = read(source(kind="jsonl", path=str(tmp_path)))
    assert found.texts == ["first", "NUL \x00 is kept"]
    assert found.counts["bad_documents"] == len(bad) + 1
    assert found.counts["bad_bytes"] == sum(len(line) + 1 for line in bad) + 1
    assert found.counts["empty_documents"] == 1
    assert found.reasons[0].startswith("a.jsonl.gz: line 2: ")
    assert found.reasons[2] == "a.jsonl.gz: line 4: no text under 'text'; found: body"
    assert found.reasons[5] == "a.jsonl.gz: line 7: no text under 'text': it is int"


def test_at_most_ten_places_are_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [b"{"] * 25)
    found = read(source(kind="jsonl", path=str(tmp_path)))
    assert found.counts["bad_documents"] == 25
    assert found.reasons[9].startswith("a.jsonl: byte 18: ")
    assert len(found.named) == 10


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("shards", [1, 2])
def test_larger_lines_than_the_maximum_are_dropped_as_oversized(tmp_path: Path, suffix: str, shards: int) -> None:
    rows = [{"text": "a" * size} for size in (10, 989, 990, 400_000, 20, 300_000)]
    for number in range(2):
        write_jsonl(tmp_path / f"{number}.jsonl{suffix}", rows)
    found = read(source(kind="jsonl", path=str(tmp_path), maximum_bytes=1001), shards)
    assert [len(text) for text in found.texts] == [10, 989, 20] * 2
    assert found.counts["oversized_documents"] == 6
    assert found.counts["oversized_bytes"] == 2 * (990 + 400_000 + 300_000 + 3 * len(b'{"text": ""}\n'))


def test_a_last_line_of_the_largest_size_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "0123456789"}')
    assert read(source(kind="jsonl", path=str(tmp_path), maximum_bytes=22)).texts == ["0123456789"]
    assert read(source(kind="jsonl", path=str(tmp_path), maximum_bytes=21)).counts["oversized_bytes"] == 22


@pytest.mark.parametrize("kind", ["text", "lines", "parquet", "huggingface"])
def test_other_formats_drop_oversized_documents_too(tmp_path: Path, kind: str) -> None:
    texts = ["a" * 50, "b" * 5000, "c" * 60]
    if kind == "parquet":
        pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    elif kind == "huggingface":
        datasets.Dataset.from_dict({"text": texts}).save_to_disk(tmp_path)
    elif kind == "lines":
        (tmp_path / "a.txt").write_text("\n".join(texts))
    else:
        for text in texts:
            (tmp_path / f"{text[0]}.txt.gz").write_bytes(gzip.compress(text.encode()))
    values = {"kind": "text", "documents": "lines"} if kind == "lines" else {"kind": kind}
    found = read(source(path=str(tmp_path), maximum_bytes=1000, **values))
    assert found.texts == [texts[0], texts[2]]
    assert found.counts["oversized_documents"] == 1
    assert found.counts["oversized_bytes"] in (5000, 5001)


def test_values_of_parquet_that_are_no_text_are_counted(tmp_path: Path) -> None:
    column = pa.array([b"good", b"\xff\xfe" * 80, None, b"", b"nul \x00"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), len(column), column.buffers(), column.null_count)
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    found = read(source(kind="parquet", path=str(tmp_path)))
    assert found.texts == ["good", "nul \x00"]
    assert (found.counts["bad_documents"], found.counts["bad_bytes"], found.counts["empty_documents"]) == (2, 160, 1)
    assert found.reasons[1] == "a.parquet: row 2: no text under 'text'"


@pytest.mark.parametrize("shards", [1, 3])
def test_a_corrupt_row_group_ends_its_file(tmp_path: Path, shards: int) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh ", k=300)) for _ in range(600)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts}), path, row_group_size=100, use_dictionary=False, write_statistics=False)
    begin = pq.ParquetFile(path).metadata.row_group(5).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[begin : begin + 50] = b"\xff" * 50
    path.write_bytes(content)
    pq.write_table(pa.table({"text": [AFTER] * 100}), tmp_path / "b.parquet", use_dictionary=False)
    found = read(source(kind="parquet", path=str(tmp_path)), shards)
    assert found.texts == [*texts[:500], *[AFTER] * 100]
    assert found.counts["bad_documents"] == 1
    assert found.reasons[0].startswith("a.parquet: unreadable from here on: row 500: ")


@pytest.mark.parametrize("share", [0.02, 0.6, 0.999])
def test_a_truncated_arrow_stream(tmp_path: Path, share: float) -> None:
    datasets.Dataset.from_dict({"text": GOOD * 2}).save_to_disk(tmp_path)
    (path,) = tmp_path.glob("*.arrow")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    found = read(source(kind="huggingface", path=str(tmp_path)))
    assert found.texts == (GOOD * 2)[: len(found.texts)]
    assert len(found.texts) == {0.02: 0, 0.6: 2000, 0.999: 3000}[share]
    assert found.counts["bad_documents"] == 1


def test_an_arrow_stream_that_ends_between_batches_is_found_out(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": GOOD}).save_to_disk(tmp_path)
    (path,) = tmp_path.glob("*.arrow")
    path.write_bytes(path.read_bytes()[:-8])  # The end mark.
    found = read(source(kind="huggingface", path=str(tmp_path)))
    assert found.texts == GOOD
    assert "without the end mark" in found.reasons[0]


def test_a_missing_column_is_refused_with_those_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column 'text' of .*a\.parquet is not there; columns: content, n"):
        read(source(kind="parquet", path=str(tmp_path)))
    with pytest.raises(DataError, match=r"column 'n' of .* is int64, not text"):
        read(source(kind="parquet", path=str(tmp_path), text_key="n"))
    with pytest.raises(DataError, match="set language_key of the source's reader; the nearest name is 'content'"):
        read(source(kind="parquet", path=str(tmp_path), text_key="content", language_key="contnt"))


def test_an_unreadable_file_is_an_error_and_not_a_count(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}])
    config = source(kind="jsonl", path=str(tmp_path))
    shards = pieces.divide(config.reader, 1)
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(DataError, match=r"a\.jsonl is gone since it was counted"):
        read(config, shards)


LARGE = """
import re, sys
from pathlib import Path
from tests.corpus.reading import source
from sidewinder.corpus.pieces import divide
from sidewinder.corpus.read import reader

def peak_bytes():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

config = source(kind="jsonl", path=sys.argv[1], maximum_bytes=int(sys.argv[2]))
list(reader(config, []).run())
before, sizes = peak_bytes(), []
for document in reader(config, divide(config.reader, 1)[0]).run():
    sizes.append(len(document.text))
    del document
print(sum(sizes), len(sizes), peak_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak memory in /proc")
@pytest.mark.parametrize("suffix", ["", ".zst"])
@pytest.mark.parametrize("kept", [True, False])
def test_memory_for_a_huge_document(tmp_path: Path, suffix: str, kept: bool) -> None:
    """Two documents of 64 MiB in a row: three times one of them, and if dropped twice the most that is read of it."""
    size = 64 * 2**20
    line = b'{"text": "' + b"a" * size + b'"}\n'
    content = line * 2 + b'{"text": "small"}\n'
    (tmp_path / f"a.jsonl{suffix}").write_bytes(zstandard.compress(content, 1) if suffix else content)
    maximum = len(line) if kept else size // 2
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path), str(maximum)], capture_output=True, text=True, check=True
    )
    characters, documents, memory_bytes = map(int, done.stdout.split())
    assert (characters, documents) == ((2 * size + 5, 3) if kept else (5, 1))
    # What is imported on the way, and steps in which a decompressed line grows; less than one more of either.
    assert memory_bytes < (3 * size + 48 * 2**20 if kept else 2 * maximum + 20 * 2**20)
