"""Training the tokenizer: exact round trips, equal bytes on repeat, failures in terms of config.yaml."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tokenizer.conftest import ODD

from sidewinder.corpus.shards import documents, text_path
from sidewinder.errors import ConfigError, CorruptArtifact
from sidewinder.graph import Graph
from sidewinder.memory import check_memory
from sidewinder.record import file_digest, read_record
from sidewinder.tokenizer import load
from sidewinder.tokenizer.sample import Sample
from sidewinder.tokenizer.train import train_tokenizer

GraphOf = Callable[..., Graph]


@pytest.fixture(scope="module")
def trained(corpus: Path) -> Graph:
    from tests.tokenizer.conftest import study_values

    from sidewinder.config.load import parse_study

    graph = Graph(parse_study(study_values(corpus)))
    train_tokenizer(graph)
    return graph


def test_every_held_out_document_comes_back(trained: Graph) -> None:
    tokenizer = load(trained.tokenizer / "tokenizer.model")
    seen = 0
    for source in trained.source_configs:
        for document in documents(trained, source, "heldout-00000"):
            assert tokenizer.decode(tokenizer.encode(document["text"])) == document["text"]
            seen += 1
    facts = read_record(trained.tokenizer / "record.json")["facts"]
    assert (facts["round_trip_documents"], facts["round_trip_changed"]) == (seen, 0)
    assert seen > 60


@pytest.mark.parametrize("text", [*ODD, "", " ", "\n", "\n\n \n", "\0", "a" * 20_000, " " * 5_000])
def test_odd_text_comes_back(trained: Graph, text: str) -> None:
    tokenizer = load(trained.tokenizer / "tokenizer.model")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_code_point_comes_back(trained: Graph) -> None:
    tokenizer = load(trained.tokenizer / "tokenizer.model")
    surrogates = range(0xD800, 0xE000)
    points = [*range(0x3000), *range(0xD000, 0x11000), *range(0x1F000, 0x1FB00), 0x10FFFF]
    text = "".join(chr(point) for point in points if point not in surrogates and point != 0x2581)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_ids_digits_and_newlines(trained: Graph) -> None:
    tokenizer = load(trained.tokenizer / "tokenizer.model")
    assert tokenizer.get_piece_size() == 1000
    assert (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()) == (0, 1, 2, -1)
    assert tokenizer.encode("Ann: 1234\n", out_type=str)[-5:] == ["1", "2", "3", "4", "<0x0A>"]
    assert not {0, 1, 2} & set(tokenizer.encode("<s> </s> <unk> " + "".join(ODD)))


def test_facts_hold_fertility_by_source(trained: Graph) -> None:
    facts = read_record(trained.tokenizer / "record.json")["facts"]
    assert set(facts["tokens_per_byte"]) == {"english", "other", "odd", "lookup"}
    assert facts["tokens_per_byte"]["english"] < facts["tokens_per_byte"]["odd"] <= 1
    assert set(facts["tokens_per_byte_by_language"]) == {"en"}
    assert sum(facts["sample_bytes"].values()) >= 90_000


def test_same_bytes_on_repeat_and_nothing_done_twice(trained: Graph) -> None:
    path, record = trained.tokenizer / "tokenizer.model", trained.tokenizer / "record.json"
    before, digest = record.read_text(), file_digest(path)
    train_tokenizer(trained)
    assert record.read_text() == before
    shutil.rmtree(trained.tokenizer)
    train_tokenizer(trained)
    assert file_digest(path) == digest


def test_sample_follows_the_weights(trained: Graph, graph_of: GraphOf) -> None:
    graph = graph_of(sample_bytes=20_000)
    train_tokenizer(graph)
    taken = read_record(graph.tokenizer / "record.json")["facts"]["sample_bytes"]
    for source, weight in graph.study.weights.items():
        assert 20_000 * weight <= taken[source] < 20_000 * weight + 10_000


def test_too_large_a_vocabulary_is_explained(graph_of: GraphOf) -> None:
    graph = graph_of(vocab_size=60_000, sample_bytes=1_000_000)
    with pytest.raises(ConfigError, match=r"tokenizer.vocab_size: 60,000 .* the largest possible is [\d,]+") as caught:
        train_tokenizer(graph)
    assert "remedy: set tokenizer.vocab_size to at most" in str(caught.value)
    assert not (graph.tokenizer / "record.json").exists()


def test_too_small_a_vocabulary_is_explained(graph_of: GraphOf) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer.vocab_size: 300 .* the smallest possible is [\d,]+") as caught:
        train_tokenizer(graph_of(vocab_size=300, character_coverage=1.0))
    assert "character_coverage" in str(caught.value)


def test_a_damaged_shard_is_named(corpus: Path, graph_of: GraphOf, tmp_path: Path) -> None:
    graph = graph_of(vocab_size=900)
    path = text_path(graph, "english", "train-00001")
    content = path.read_bytes()
    try:
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(CorruptArtifact, match=r"train-00001/text\.jsonl\.zst"):
            train_tokenizer(graph)
    finally:
        path.write_bytes(content)


def test_a_sample_is_spread_over_the_documents(trained: Graph, graph_of: GraphOf) -> None:
    """Not the first ones: by hash, the same for any order, and another seed takes others."""
    texts: dict[int, list[str]] = {}
    for seed in (1, 2):
        sample = Sample(graph_of(sample_bytes=20_000, seed=seed))
        sample.taken_bytes["english"] = 0
        texts[seed] = []
        for text in sample._texts("english", 14_000):
            texts[seed].append(text)
            sample.taken_bytes["english"] += len(text.encode())
    everything = [
        document["text"]
        for shard in ("train-00000", "train-00001")
        for document in documents(trained, "english", shard)
    ]
    assert set(texts[1]) < set(everything)
    assert set(texts[1]) != set(texts[2])
    places = sorted(everything.index(text) for text in texts[1])
    assert places != list(range(places[0], places[0] + len(places)))


def test_too_little_memory_is_told_beforehand() -> None:
    check_memory(1_000_000)
    with pytest.raises(ConfigError, match=r"takes about [\d,.]+ GiB of memory; (.|\n)*sample_bytes to at most [\d,]+"):
        check_memory(10**13)


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\n\x0e"])
def test_load_names_what_it_cannot_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"tokenizer\.model"):
        load(path)
