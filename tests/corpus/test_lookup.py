"""The synthetic look-up source: the stated mixture, the shared format, the same on every machine."""

import hashlib
from collections import Counter
from collections.abc import Callable
from itertools import accumulate

import pytest

from sidewinder.config.corpus import Lookup
from sidewinder.config.study import LOOKUP
from sidewinder.corpus.build import build_source
from sidewinder.corpus.lookup import document
from sidewinder.corpus.shards import documents
from sidewinder.graph import Graph
from sidewinder.record import read_record

CONFIG = Lookup(share=0.1, documents=600, entries=(2, 16))


def test_a_document_is_a_function_of_seed_part_and_number() -> None:
    texts = [document(CONFIG, "train", number) for number in range(50)]
    assert texts == [document(CONFIG, "train", number) for number in range(50)]
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()
    assert digest == hashlib.sha256("".join(document(CONFIG, "train", n) for n in range(50)).encode()).hexdigest()
    assert not set(texts) & {document(CONFIG, "heldout", number) for number in range(50)}
    assert not set(texts) & {document(CONFIG.model_copy(update={"seed": 2}), "train", number) for number in range(50)}


def test_answers_stand_in_the_book() -> None:
    for number in range(200):
        text = document(CONFIG, "train", number)
        question, _, rest = text.rpartition(".\n") if text.startswith("Find ") else ("", "", text)
        book, _, answers = rest.partition("\n\n")
        lines = book.splitlines()
        assert set(answers.splitlines()) <= set(lines)
        if question:
            assert answers.startswith(f"{question.removeprefix('Find ')}: ")
            assert answers.count("\n") == 1
        else:
            assert sorted(answers.splitlines()) == sorted(lines)


def test_kinds_and_sizes_are_mixed_as_stated() -> None:
    texts = [document(CONFIG, "train", number) for number in range(600)]
    asked_first = [text.startswith("Find ") for text in texts]
    assert 0.4 < sum(asked_first) / 600 < 0.6
    sizes = Counter(len(text.removeprefix("Find").partition("\n\n")[0].splitlines()) for text in texts)
    assert sum(sizes[size] for size in range(2, 5)) > 100
    assert sum(sizes[size] for size in range(8, 18)) > 100
    assert all(
        text.startswith("Find ") for text in [document(_only_reversed(), "train", number) for number in range(20)]
    )


def size_of(text: str) -> int:
    """Entries of the book in a document."""
    return len(text.partition(".\n")[2 if text.startswith("Find ") else 0].partition("\n\n")[0].splitlines())


def test_books_of_a_curriculum_double_at_equal_distances_of_text() -> None:
    curriculum = Lookup(share=0.1, documents=30_000, entries=(2, 48), questions=12, grow_share=0.5)
    texts = [document(curriculum, "train", number) for number in range(curriculum.documents)]
    ends = list(accumulate(map(len, texts)))
    first = {}  # Share of the text before the first book of a size or more.
    for size in (3, 5, 9, 17, 33):
        number = next(number for number, text in enumerate(texts) if size_of(text) >= size)
        first[size] = ends[number] / ends[-1]
    # Half of the text has five doublings, from books of 2 entries to books of 48.
    for doubling, share in enumerate(first.values(), start=1):
        assert share == pytest.approx(0.1 * doubling, abs=0.02)
    assert max(map(size_of, texts)) == 48
    last = [size_of(text) for text in texts[-3000:]]
    assert min(last) == 2, "short books stay among the long ones"
    assert max(size_of(document(curriculum, "heldout", number)) for number in range(100)) > 24


def test_books_of_one_size_do_not_grow() -> None:
    config = CONFIG.model_copy(update={"entries": (4, 4), "grow_share": 0.5})
    assert {size_of(document(config, "train", number)) for number in range(20)} == {4}


def test_a_book_is_asked_as_often_as_stated() -> None:
    config = CONFIG.model_copy(update={"questions": 5, "reversed_share": 0.0})
    for number in range(100):
        book, _, answers = document(config, "train", number).partition("\n\n")
        asked = Counter(answers.splitlines())
        assert asked.total() == 5
        fewest, more = divmod(5, size_of(book))
        often = sorted((asked[line] for line in book.splitlines()), reverse=True)
        assert often == [fewest + 1] * more + [fewest] * (size_of(book) - more), "entries are asked for in turns"


def test_shards_together_hold_every_document_once(graph_of: Callable[..., Graph]) -> None:
    graph = graph_of({"kind": "jsonl", "path": "unused"}, lookup={"share": 0.1, "documents": 101, "shards": 3})
    build_source(graph, LOOKUP)
    found = [list(documents(graph, LOOKUP, shard)) for shard in graph.shards(LOOKUP)]
    assert [len(part) for part in found] == [33, 34, 34, 32]
    training, heldout = ([line["id"] for part in parts for line in part] for parts in (found[:3], found[3:]))
    assert training == [f"lookup/train/{number}" for number in range(101)]
    assert sorted(heldout) == sorted(f"lookup/heldout/{number}" for number in range(32))


def test_the_source_has_the_folder_of_any_other(graph_of: Callable[..., Graph]) -> None:
    graph = graph_of({"kind": "jsonl", "path": "unused"}, lookup={"share": 0.1, "documents": 100})
    build_source(graph, LOOKUP)
    folder = graph.corpus(LOOKUP)
    record = read_record(folder / "record.json")
    assert [entry["role"] for entry in record["outputs"]] == ["duplicates", "heldout", "summary"]
    shard = read_record(folder / "train-00000" / "record.json")
    assert [entry["role"] for entry in shard["outputs"]] == ["text", "heldout"]
    assert shard["inputs"][0]["path"].startswith("Faker==")
    training, heldout = (list(documents(graph, LOOKUP, shard)) for shard in graph.shards(LOOKUP))
    assert (len(training), len(heldout)) == (100, 32)
    assert record["facts"]["train_bytes"] == sum(len(line["text"]) for line in training)
    before = (folder / "record.json").read_text()
    build_source(graph, LOOKUP)
    assert (folder / "record.json").read_text() == before


def _only_reversed() -> Lookup:
    return CONFIG.model_copy(update={"reversed_share": 1.0})
