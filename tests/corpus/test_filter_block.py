"""What a block counts and remembers: nothing lost, and samples that depend on texts alone."""

import hashlib
import json
import random

import pytest
from datatrove.data import Document
from tests.corpus.real_text import document, documents

from sidewinder.corpus.filters.block import SAMPLE_CHARACTERS, SAMPLES, Block, Decision, merged


def odd_words(entry: Document) -> Decision:
    """Drops by two reasons, and shortens some of the others."""
    count = len(entry.text.split())
    if count % 3 == 0:
        return False, "threes"
    if count % 5 == 0:
        return False
    if count % 2:
        entry.text = entry.text[: len(entry.text) // 2]
    return True


def run(given: list[Document]) -> dict:
    block = Block("odd", odd_words)
    out = list(block.run(given))
    assert block.counts.documents_out == len(out)
    return block.counts.as_dict()


def test_in_is_out_and_dropped_and_edited_away() -> None:
    given = documents()
    size_bytes = sum(len(entry.text.encode()) for entry in given)
    counts = run(given)
    assert set(counts["dropped"]) == {"threes", "odd"}
    assert counts["documents_in"] == len(given)
    assert counts["bytes_in"] == size_bytes
    assert counts["documents_in"] == counts["documents_out"] + sum(
        entry["documents"] for entry in counts["dropped"].values()
    )
    lost = counts["edited_bytes"] + sum(entry["bytes"] for entry in counts["dropped"].values())
    assert counts["bytes_in"] == counts["bytes_out"] + lost
    assert 0 < counts["edited_documents"] < counts["documents_out"]


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_samples_are_the_smallest_hashes_whatever_the_order_and_the_shards(shards: int) -> None:
    given = documents("prose")
    expected = sorted(
        {
            hashlib.blake2b(entry.text.encode(), digest_size=16).hexdigest()
            for entry in given
            if len(entry.text.split()) % 3 == 0
        }
    )[:SAMPLES]
    random.Random(shards).shuffle(given)
    total = merged([run(documents_of)] for documents_of in (given[shard::shards] for shard in range(shards)))
    samples = total[0]["dropped"]["threes"]["samples"]
    assert [sample["hash"] for sample in samples] == expected
    assert all(len(sample["text"]) <= SAMPLE_CHARACTERS for sample in samples)


def test_shards_add_up_to_the_whole() -> None:
    whole = merged([[run(documents())]])
    parts = [[run(documents()[shard::3])] for shard in range(3)]
    assert merged(parts) == whole
    assert merged(json.loads(json.dumps(parts))) == whole  # As they come from records.


def test_of_equal_texts_the_first_in_the_source_is_the_sample() -> None:
    text = "a b c"
    forwards = [document(text, place, file) for file in ("a", "b") for place in range(10)]
    backwards = [document(text, place, file) for file in ("b", "a") for place in reversed(range(10))]
    assert run(forwards) == run(backwards)
    samples = run(forwards)["dropped"]["threes"]["samples"]
    assert [(sample["file"], sample["index"]) for sample in samples] == [("a", 0)]


def test_a_dropped_document_shows_its_text_before_the_block() -> None:
    def spoil(entry: Document) -> Decision:
        entry.text = ""
        return False

    block = Block("spoil", spoil)
    list(block.run([document("as it was")]))
    assert block.counts.dropped["spoil"].bytes == len("as it was")
    assert block.counts.dropped["spoil"].samples[0].text == "as it was"
