"""From text shards to tokens and blend.json: SentencePiece's ids, complete, in order, held-out text kept out."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidewinder.corpus.shards import TextWriter, documents, text_path
from sidewinder.errors import CorruptArtifact
from sidewinder.graph import Graph
from sidewinder.record import file_digest, outputs_of, read_record
from sidewinder.tokenizer import load
from sidewinder.tokens.blend import write_blend
from sidewinder.tokens.encode import encode_shard
from sidewinder.tokens.indexed import IndexedReader
from sidewinder.tokens.loader import BlendLoader


@pytest.fixture(scope="module")
def encoded(prepared: Graph) -> Graph:
    for source in prepared.source_configs:
        for shard in prepared.shards(source):
            encode_shard(prepared, source, shard)
    write_blend(prepared, prepared.blend)
    return prepared


def every_shard(graph: Graph) -> list[tuple[str, str]]:
    return [(source, shard) for source in graph.source_configs for shard in graph.shards(source)]


def texts(graph: Graph, source: str, shard: str) -> list[str]:
    return [document["text"] for document in documents(graph, source, shard)]


def test_tokens_are_sentencepieces_and_each_document_ends(encoded: Graph) -> None:
    tokenizer = load(encoded.tokenizer / "tokenizer.model")
    for source, shard in every_shard(encoded):
        reader = IndexedReader(encoded.tokens(source, shard) / "tokens")
        expected = [[*tokenizer.encode(text), 2] for text in texts(encoded, source, shard)]
        found = [reader[place].tolist() for place in range(len(reader))]
        if shard.startswith("train"):
            assert found != expected, "documents are shuffled"
            found, expected = sorted(found), sorted(expected)
        assert found == expected


def read_by_the_description(prefix: Path) -> list[list[int]]:
    """Documents of an indexed data set, read from the format's description and with nothing of ours."""
    index = prefix.with_suffix(".idx").read_bytes()
    magic, version, code, sequences, bounds = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version, bounds) == (b"MMIDIDX\0\0", 1, sequences + 1)
    width, letter = {4: (4, "i"), 8: (2, "H")}[code]
    sizes = struct.unpack_from(f"<{sequences}i", index, 34)
    pointers = struct.unpack_from(f"<{sequences}q", index, 34 + 4 * sequences)
    first = struct.unpack_from(f"<{bounds}q", index, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * bounds
    assert first == tuple(range(bounds))
    content = prefix.with_suffix(".bin").read_bytes()
    assert len(content) == width * sum(sizes)
    return [
        list(struct.unpack_from(f"<{size}{letter}", content, pointer))
        for size, pointer in zip(sizes, pointers, strict=True)
    ]


def test_another_reader_finds_every_text(encoded: Graph) -> None:
    tokenizer = load(encoded.tokenizer)
    for source, shard in every_shard(encoded):
        found = read_by_the_description(encoded.tokens(source, shard) / "tokens")
        assert all(document[-1] == 2 and 2 not in document[:-1] for document in found)
        assert sorted(tokenizer.decode(document) for document in found) == sorted(texts(encoded, source, shard))


def test_counts_add_up_from_text_to_blend(encoded: Graph) -> None:
    blend = json.loads((encoded.blend / "blend.json").read_text())
    assert set(blend["sources"]) == {"english", "other", "odd", "lookup"}
    assert sum(entry["weight"] for entry in blend["sources"].values()) == pytest.approx(1)
    for source, entry in blend["sources"].items():
        facts = read_record(encoded.corpus(source) / "record.json")["facts"]
        for part, listed in (("train", entry["shards"]), ("heldout", entry["heldout"])):
            assert sum(shard["documents"] for shard in listed) == facts[f"{part}_documents"]
            assert sum(shard["text_bytes"] for shard in listed) == facts[f"{part}_bytes"]
            for shard in listed:
                assert shard["tokens"] == IndexedReader(encoded.blend / shard["prefix"]).n_tokens
                assert shard["sha256_bin"] == file_digest(encoded.blend / f"{shard['prefix']}.bin")
    assert len(blend["sources"]["english"]["shards"]) == 2
    assert (blend["vocab_size"], blend["eos"], blend["dtype"]) == (1000, 2, "uint16")
    assert blend["tokenizer"]["sha256"] == file_digest(encoded.blend / blend["tokenizer"]["path"])


def test_inputs_chain_to_the_corpus_and_the_tokenizer(encoded: Graph) -> None:
    folders = [encoded.corpus("other"), encoded.corpus("other") / "train-00000"]
    made = {entry.sha256 for folder in folders for entry in outputs_of(folder / "record.json")}
    made |= {entry.sha256 for entry in outputs_of(encoded.tokenizer / "record.json")}
    used = read_record(encoded.tokens("other", "train-00000") / "record.json")["inputs"]
    assert {entry["role"] for entry in used} == {"text", "duplicates", "tokenizer"}
    assert {entry["sha256"] for entry in used} <= made
    outputs = [entry.sha256 for shard in every_shard(encoded) for entry in outputs_of(_record(encoded, *shard))]
    used = read_record(encoded.blend / "record.json")["inputs"]
    assert set(outputs) <= {entry["sha256"] for entry in used}


def test_held_out_documents_never_reach_training(encoded: Graph) -> None:
    loader = BlendLoader(encoded.blend / "blend.json", 64, seed=1, total_sequences=100)
    tokenizer = load(encoded.tokenizer / "tokenizer.model")
    for stream in loader.streams:
        tokens = [int(token) for token in stream.read(0, stream.tokens)]
        seen, start = set(), 0
        while start < len(tokens):
            end = tokens.index(2, start)
            seen.add(tuple(tokens[start:end]))
            start = end + 1
        heldout = {tuple(tokenizer.encode(text)) for text in texts(encoded, stream.name, "heldout-00000")}
        trained = {
            tuple(tokenizer.encode(text))
            for shard in encoded.shards(stream.name)[:-1]
            for text in texts(encoded, stream.name, shard)
        }
        assert seen == trained
        assert heldout
        assert not heldout & seen


def test_nothing_is_done_twice_and_a_repeat_gives_the_same_bytes(encoded: Graph) -> None:
    folder = encoded.tokens("odd", "train-00000")
    before = (folder / "record.json").read_text()
    encode_shard(encoded, "odd", "train-00000")
    assert (folder / "record.json").read_text() == before
    for path in folder.iterdir():
        path.unlink()
    encode_shard(encoded, "odd", "train-00000")
    assert [entry["sha256"] for entry in json.loads(before)["outputs"]] == [
        entry.sha256 for entry in outputs_of(folder / "record.json")
    ]
    blend = (encoded.blend / "record.json").read_text()
    write_blend(encoded, encoded.blend)
    assert (encoded.blend / "record.json").read_text() == blend


def test_epochs_are_told_for_every_stage(encoded: Graph) -> None:
    facts = read_record(encoded.blend / "record.json")["facts"]
    budget = 10_000 // 256 * 256
    expected = budget * 0.63 / facts["tokens"]["english"]
    assert facts["epochs"]["toy pretrain-64"]["english"] == pytest.approx(expected, rel=0.03)


def _other_documents(path: Path) -> None:
    with TextWriter(path) as writer:
        writer.write(b'{"id":"x","text":"something else"}')


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [_truncated, _altered, _other_documents, Path.unlink])
def test_a_damaged_shard_is_named_and_earlier_tokens_stay(encoded: Graph, damage: Callable[[Path], Any]) -> None:
    path, folder = text_path(encoded, "other", "train-00000"), encoded.tokens("other", "train-00000")
    content, kept = path.read_bytes(), (folder / "tokens.bin").read_bytes()
    hidden = folder / ".record.json"
    record = hidden.read_text()
    try:
        damage(path)
        hidden.unlink()
        with pytest.raises(CorruptArtifact, match=r"train-00000/text\.jsonl\.zst"):
            encode_shard(encoded, "other", "train-00000")
        assert not list(folder.glob("*.part"))
        assert (folder / "tokens.bin").read_bytes() == kept
    finally:
        path.write_bytes(content)
        hidden.write_text(record)
        encode_shard(encoded, "other", "train-00000")


def test_a_truncated_token_file_stops_the_blend(encoded: Graph) -> None:
    path = encoded.tokens("odd", "heldout-00000") / "tokens.bin"
    content, record = path.read_bytes(), encoded.blend / ".record.json"
    kept = record.read_text()
    try:
        path.write_bytes(content[:-2])
        record.unlink()
        with pytest.raises(CorruptArtifact, match=r"tokens\.bin has [\d,]+ bytes instead of"):
            write_blend(encoded, encoded.blend)
    finally:
        path.write_bytes(content)
        record.write_text(kept)
        write_blend(encoded, encoded.blend)


def _record(graph: Graph, source: str, shard: str) -> Path:
    return graph.tokens(source, shard) / "record.json"
