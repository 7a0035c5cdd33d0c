"""The indexed format: what we write an independent reader understands, what others write we read, damage is named."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

from sidewinder.errors import CorruptArtifact
from sidewinder.record import artifact
from sidewinder.tokens.indexed import IndexedReader, IndexedWriter, token_dtype

DOCUMENTS = [[5, 6, 7, 2], [2], list(range(300)), [65_000, 1, 2]]


def read_independently(prefix: Path) -> tuple[int, list[list[int]], list[int]]:
    """The format as Megatron-LM describes it, read with struct alone: type code, sequences, document bounds."""
    index, tokens = Path(f"{prefix}.idx").read_bytes(), Path(f"{prefix}.bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, bounds = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    place = 9 + 8 + 1 + 8 + 8
    sizes = struct.unpack_from(f"<{sequences}i", index, place)
    pointers = struct.unpack_from(f"<{sequences}q", index, place + 4 * sequences)
    documents = struct.unpack_from(f"<{bounds}q", index, place + 12 * sequences)
    assert len(index) == place + 12 * sequences + 8 * bounds
    kind = {4: "i", 8: "H"}[code]
    found = [
        list(struct.unpack_from(f"<{size}{kind}", tokens, start)) for size, start in zip(sizes, pointers, strict=True)
    ]
    return code, found, list(documents)


def write(prefix: Path, dtype: Any = np.uint16) -> Path:
    with IndexedWriter(prefix, dtype) as writer:
        for document in DOCUMENTS:
            writer.add(document)
    return prefix


@pytest.mark.parametrize(("dtype", "code"), [(np.uint16, 8), (np.int32, 4)])
def test_an_independent_reader_finds_the_documents(tmp_path: Path, dtype: Any, code: int) -> None:
    prefix = write(tmp_path / "tokens", dtype)
    assert read_independently(prefix) == (code, DOCUMENTS, [0, 1, 2, 3, 4])
    reader = IndexedReader(prefix)
    assert [list(reader[place]) for place in range(len(reader))] == DOCUMENTS
    assert (reader.n_tokens, list(reader.sizes)) == (308, [4, 1, 300, 3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokens.bin", "tokens.idx"]


@pytest.mark.parametrize("token_size", [2, 4])
def test_same_bytes_as_datatroves_writer_which_we_read(tmp_path: Path, token_size: int) -> None:
    theirs = MegatronTokenizedFile(str(tmp_path), "theirs", token_size=token_size)
    for document in DOCUMENTS:
        theirs.write(document)
    theirs.close()
    reader = IndexedReader(tmp_path / "theirs")
    assert [list(reader[place]) for place in range(len(reader))] == DOCUMENTS
    write(tmp_path / "ours", reader.dtype)
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()


def test_documents_of_several_sequences(tmp_path: Path) -> None:
    prefix = write(tmp_path / "tokens")
    index = (tmp_path / "tokens.idx").read_bytes()
    head = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, 4, 3)
    bounds = struct.pack("<3q", 0, 3, 4)
    (tmp_path / "tokens.idx").write_bytes(head + index[34 : 34 + 12 * 4] + bounds)
    reader = IndexedReader(prefix)
    assert len(reader) == 2
    assert list(reader[0]) == DOCUMENTS[0] + DOCUMENTS[1] + DOCUMENTS[2]
    assert list(reader[1]) == DOCUMENTS[3]


def test_batches_are_written_as_single_documents_are(tmp_path: Path) -> None:
    write(tmp_path / "single")
    with IndexedWriter(tmp_path / "batch", np.uint16) as writer:
        sizes = np.array([len(document) for document in DOCUMENTS])
        writer.add_block(np.concatenate(DOCUMENTS[:3]), sizes[:3])
        writer.add_block(np.array(DOCUMENTS[3], dtype=np.int32), sizes[3:])
    assert writer.artifacts == [artifact("bin", tmp_path / "batch.bin"), artifact("idx", tmp_path / "batch.idx")]
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"single.{suffix}").read_bytes() == (tmp_path / f"batch.{suffix}").read_bytes()


def test_type_follows_the_vocabulary() -> None:
    assert token_dtype(2048) == token_dtype(65_499) == np.uint16
    assert token_dtype(65_500) == token_dtype(256_000) == np.int32


@pytest.mark.parametrize(
    ("suffix", "damage", "says"),
    [
        ("bin", lambda content: content[:-2], "bytes; its index promises"),
        ("bin", lambda content: content + b"\0\0", "bytes; its index promises"),
        ("bin", None, "No such file"),
        ("idx", lambda content: content[:-8], "its header promises"),
        ("idx", lambda content: content[:20], "inside its header"),
        ("idx", lambda content: b"", "inside its header"),
        ("idx", lambda content: b"X" + content[1:], "does not begin as an index"),
        ("idx", None, "No such file"),
    ],
)
def test_damage_is_named_when_opened(tmp_path: Path, suffix: str, damage: Any, says: str) -> None:
    prefix = write(tmp_path / "tokens")
    path = Path(f"{prefix}.{suffix}")
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(content))
    with pytest.raises(CorruptArtifact, match=rf"tokens\.{suffix}: .*{says}"):
        IndexedReader(prefix)


def test_a_failed_write_leaves_the_earlier_files(tmp_path: Path) -> None:
    prefix = write(tmp_path / "tokens")
    before = read_independently(prefix)

    def fail() -> None:
        with IndexedWriter(prefix, np.uint16) as writer:
            writer.add([1, 2, 3])
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert read_independently(prefix) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokens.bin", "tokens.idx"]


def test_an_empty_data_set_and_a_document_that_is_not_there(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "empty", np.uint16):
        pass
    reader = IndexedReader(tmp_path / "empty")
    assert (len(reader), reader.n_tokens) == (0, 0)
    with pytest.raises(IndexError):
        reader[0]
