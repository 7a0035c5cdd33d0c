"""Every format against whoever else writes it: the documents, their columns, and what is counted."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from tests.corpus.conftest import sentence, write_jsonl
from tests.corpus.reading import read, source

from sidewinder.corpus import pieces
from sidewinder.corpus.pieces import Piece
from sidewinder.errors import DataError

TEXTS = [sentence(number) + " «ünïcødé» 中文 👩‍👩‍👧" for number in range(300)]
ROWS = [{"id": f"k{number}", "text": text, "lang": "de", "lic": None} for number, text in enumerate(TEXTS)]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    pieces.forget()
    yield
    pieces.forget()


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_json_lines_in_every_compression(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.jsonl{suffix}").write_bytes(COMPRESS[suffix](json_lines(ROWS)))
    found = read(source(kind="jsonl", path=str(tmp_path), language_key="lang", licence_key="lic"))
    assert found.texts == TEXTS
    assert [document.id for document in found.documents] == [row["id"] for row in ROWS]
    assert {document.metadata["language"] for document in found.documents} == {"de"}
    assert not any("licence" in document.metadata for document in found.documents)
    assert found.counts == {"read_documents": 300, "read_bytes": sum(len(text.encode()) for text in TEXTS)}


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz", ".bz2"])
def test_files_of_several_members_are_read_to_the_end(tmp_path: Path, suffix: str) -> None:
    lines = json_lines(ROWS)
    parts = [lines[:7001], lines[7001:20000], b"", lines[20000:]]  # Cut within lines.
    (tmp_path / f"a.jsonl{suffix}").write_bytes(b"".join(COMPRESS[suffix](part) for part in parts))
    assert read(source(kind="jsonl", path=str(tmp_path))).texts == TEXTS


def test_zstandard_frames_without_size_and_skippable_frames(tmp_path: Path) -> None:
    buffer = io.BytesIO(b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc")
    buffer.seek(0, io.SEEK_END)
    with zstandard.ZstdCompressor(write_checksum=True).stream_writer(buffer, closefd=False) as stream:
        stream.write(json_lines(ROWS))
    (tmp_path / "a.jsonl.zst").write_bytes(buffer.getvalue())
    assert read(source(kind="jsonl", path=str(tmp_path))).texts == TEXTS


def test_places_do_not_depend_on_what_else_is_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", [{"text": "ab"}, {"text": "cd"}])
    write_jsonl(tmp_path / "c" / "d.jsonl.gz", [{"text": "ef"}, {"text": "gh"}])
    found = read(source(kind="jsonl", path=str(tmp_path)))
    ids = [document.id for document in found.documents]
    assert ids == ["b.jsonl:0", "b.jsonl:15", "c/d.jsonl.gz:1", "c/d.jsonl.gz:2"]
    assert [document.metadata for document in found.documents][1::2] == [
        {"file": "b.jsonl", "index": 15},
        {"file": "c/d.jsonl.gz", "index": 2},
    ]


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_of_any_codec_and_type_of_text(tmp_path: Path, codec: str, kind: pa.DataType) -> None:
    table = pa.table({"n": range(300), "body": pa.array(TEXTS, kind), "lang": ["de", None] * 150})
    pq.write_table(table, tmp_path / "a.parquet", compression=codec, row_group_size=40)
    config = source(kind="parquet", path=str(tmp_path), text_key="body", id_key="n", language_key="lang")
    for shards in (1, 2, 5):
        found = read(config, shards)
        assert found.texts == TEXTS
        assert [document.id for document in found.documents] == [str(number) for number in range(300)]
        assert [document.metadata.get("language") for document in found.documents] == ["de", None] * 150
        assert [document.metadata["index"] for document in found.documents] == list(range(300))


def test_a_row_group_belongs_to_the_piece_in_which_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=50)
    config = source(kind="parquet", path=str(path))
    begins = [
        group.column(0).dictionary_page_offset or group.column(0).data_page_offset
        for group in map(pq.ParquetFile(path).metadata.row_group, range(6))
    ]
    for group in range(1, 6):
        for cut, owned in ((begins[group] - 1, group), (begins[group], group), (begins[group] + 1, group + 1)):
            first = Piece(str(path), 0, cut, cut, "a.parquet")
            second = Piece(str(path), cut, None, path.stat().st_size - cut, "a.parquet")
            assert read(config, [[first]]).texts == TEXTS[: 50 * owned]
            assert read(config, [[second]]).texts == TEXTS[50 * owned :]


def test_parquet_parts_have_digests_of_their_own_rows(tmp_path: Path) -> None:
    reader = source(kind="parquet", path=str(tmp_path)).reader

    def digests(texts: list[str]) -> list[str]:
        pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=50, compression="none",
                       use_dictionary=False, write_statistics=False)  # fmt: skip
        pieces.forget()
        return [
            artifact.sha256 for shard in pieces.divide(reader, 3) for artifact in pieces.artifacts("x", reader, shard)
        ]

    before = digests(TEXTS)
    after = digests([*TEXTS[:-1], TEXTS[-1][::-1]])
    assert len(set(before)) == 3
    assert before[:2] == after[:2]
    assert before[2] != after[2]


def test_text_files_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"three\x00\n\n\xe4\xb8\xad"))
    files = read(source(kind="text", path=str(tmp_path)))
    assert files.texts == ["one\r\ntwo\n", "three\x00\n\n中"]
    assert [document.id for document in files.documents] == ["a.txt", "b.txt.gz"]
    lines = read(source(kind="text", path=str(tmp_path), documents="lines"))
    assert lines.texts == ["one", "two", "three\x00", "中"]
    assert lines.counts["empty_documents"] == 1


def test_a_saved_data_set_folder(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(ROWS * 8)
    data.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": data, "test": data.select(range(5))}).save_to_disk(tmp_path / "several")
    config = source(kind="huggingface", path=str(tmp_path / "one"), language_key="lang")
    for shards in (1, 2, 3):
        found = read(config, shards)
        assert found.texts == TEXTS * 8
        assert found.documents[-1].metadata["language"] == "de"
        assert found.documents[0].id == "k0"
    assert read(source(kind="huggingface", path=str(tmp_path / "several"))).texts == TEXTS * 8
    assert read(source(kind="huggingface", path=str(tmp_path / "several"), split="test")).texts == TEXTS[:5]
    (tmp_path / "one" / "data-00000-of-00002.arrow").unlink()
    pieces.forget()
    with pytest.raises(DataError, match=r"lacks data-00000-of-00002\.arrow"):
        read(config)


def test_arrow_parts_have_digests_of_their_own_rows(tmp_path: Path) -> None:
    def digests(rows: list[dict[str, Any]], name: str) -> list[str]:
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / name)
        reader = source(kind="huggingface", path=str(tmp_path / name)).reader
        return [
            artifact.sha256 for shard in pieces.divide(reader, 2) for artifact in pieces.artifacts("x", reader, shard)
        ]

    rows = ROWS * 10
    before = digests(rows, "before")
    after = digests([*rows[:-1], {**rows[-1], "text": rows[-1]["text"][::-1]}], "after")
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    ("files", "split", "wanted"),
    [
        (["data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet"], "train", [0]),
        (["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"], "train_sft", [0]),
        (["data/train-00000-of-00001.parquet", "data/train_sft-00000-of-00001.parquet"], "train", [0]),
        (["train.jsonl", "valid.jsonl", "latest.jsonl"], "validation", [1]),
        (["dev/a.jsonl.gz", "training/a.jsonl.gz", "training/b.jsonl.gz"], "train", [1, 2]),
        (["a.jsonl", "b/c.jsonl"], "train", [0, 1]),
        (["20231101.en/a.jsonl", "20231101.de/a.jsonl"], "20231101.de", [1]),
    ],
)
def test_splits_of_a_hub_folder(tmp_path: Path, files: list[str], split: str, wanted: list[int]) -> None:
    for number, name in enumerate(files):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(pa.table({"text": [f"file {number}"]}), path)
        else:
            write_jsonl(path, [{"text": f"file {number}"}])
    found = read(source(kind="huggingface", path=str(tmp_path), split=split))
    assert sorted(found.texts) == [f"file {number}" for number in wanted]
    if len(wanted) < len(files):
        with pytest.raises(DataError, match=r"has no split 'nosuch'"):
            read(source(kind="huggingface", path=str(tmp_path), split="nosuch"))


def test_splits_are_those_that_the_data_sets_library_finds(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    for split, texts in (("train", TEXTS[:20]), ("validation", TEXTS[20:25]), ("test", TEXTS[25:])):
        for part in range(2):
            pq.write_table(pa.table({"text": texts[part::2]}), folder / f"{split}-{part:05d}-of-00002.parquet")
    for split in ("train", "validation", "test"):
        theirs = datasets.load_dataset(str(folder.parent), split=split, cache_dir=str(tmp_path / "cache"))
        assert read(source(kind="huggingface", path=str(folder.parent), split=split)).texts == theirs["text"][:]
