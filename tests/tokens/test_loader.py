"""The loader: every token of every epoch once, in shuffled order, as a pure function of seed and step."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sidewinder.errors import CorruptArtifact
from sidewinder.tokens.loader import BlendLoader
from sidewinder.tokens.stream import permutation

MakeBlend = Callable[..., Path]
SIZES = {"a": [[7, 3, 12, 1, 9], [5, 5, 20]], "b": [[4, 30, 2]], "c": [[3] * 40]}
WEIGHTS = {"a": 0.6, "b": 0.3, "c": 0.1}


def loader_of(path: Path, context: int = 8, seed: int = 1) -> BlendLoader:
    return BlendLoader(path, context, seed, total_sequences=1_000)


def batch(loader: BlendLoader, step: int, size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    return loader.sequences(step * size, size)


def documents_of(stream: np.ndarray) -> list[tuple[int, ...]]:
    """Cuts a stream after each end-of-document token."""
    ends = np.flatnonzero(stream == 2) + 1
    return [tuple(part) for part in np.split(stream, ends) if len(part)]


def test_targets_are_the_inputs_one_further(make_blend: MakeBlend) -> None:
    inputs_BL, targets_BL = batch(loader_of(make_blend(WEIGHTS, SIZES)), 3)
    assert inputs_BL.shape == targets_BL.shape == (4, 8)
    assert inputs_BL.dtype == targets_BL.dtype == np.int64
    assert (inputs_BL[:, 1:] == targets_BL[:, :-1]).all()


def test_each_epoch_holds_every_document_once_and_whole(make_blend: MakeBlend) -> None:
    stream = loader_of(make_blend(WEIGHTS, SIZES)).streams[0]
    expected = sorted(documents_of(stream.read(0, stream.tokens)))
    assert len(expected) == 8
    orders = []
    for epoch in range(6):
        documents = documents_of(stream.read(epoch * stream.tokens, stream.tokens))
        assert sorted(documents) == expected
        orders.append(tuple(documents))
    assert len(set(orders)) == 6, "every epoch has an order of its own"


def test_samples_of_a_source_are_its_stream_cut_with_nothing_lost_or_repeated(make_blend: MakeBlend) -> None:
    context = 8
    loader = loader_of(make_blend(WEIGHTS, SIZES), context)
    samples: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for step in range(80):
        inputs_BL, targets_BL = batch(loader, step)
        for row, source in enumerate(loader.schedule.sources(step * 4, 4)):
            samples[source].append(np.append(inputs_BL[row], targets_BL[row, -1]))
    for source, stream in enumerate(loader.streams):
        block = stream.tokens // context
        whole = len(samples[source]) // block * block
        assert whole > block, "the test must go through more than one block"
        seen = [tuple(sample) for sample in samples[source][:whole]]
        pieces = [tuple(stream.read(place * context, context + 1)) for place in range(whole)]
        for first in range(0, whole, block):
            assert sorted(seen[first : first + block]) == sorted(pieces[first : first + block])
        assert seen != pieces, "the pieces are shuffled"


def test_a_long_document_does_not_fill_a_batch(make_blend: MakeBlend) -> None:
    loader = loader_of(make_blend({"a": 1.0}, {"a": [[4_000], [4_000], [4_000], [4_000]]}), context=16)
    places = [loader.streams[0].place(sequence, 16) * 16 // 4_001 for sequence in range(16)]
    assert len(set(places)) == 4, "sixteen sequences, drawn from four long documents"


def test_reading_in_any_pieces_gives_the_same_stream(make_blend: MakeBlend) -> None:
    stream = loader_of(make_blend(WEIGHTS, SIZES)).streams[0]
    whole = stream.read(0, 4 * stream.tokens)
    for first, count in [(0, 1), (5, 100), (61, 2), (62, 62), (3, 200), (123, 1), (247, 1)]:
        assert (stream.read(first, count) == whole[first : first + count]).all()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_sequences_do_not_depend_on_the_batch(make_blend: MakeBlend, size: int) -> None:
    loader = loader_of(make_blend(WEIGHTS, SIZES))
    found = np.concatenate([batch(loader, step, size)[0] for step in range(48 // size)])
    assert (found == loader.sequences(0, 48)[0]).all()


def test_a_pure_function_of_seed_and_step(make_blend: MakeBlend) -> None:
    path = make_blend(WEIGHTS, SIZES)
    loader = loader_of(path)
    forwards = [batch(loader, step)[0].tobytes() for step in range(20)]
    backwards = [batch(loader, step)[0].tobytes() for step in reversed(range(20))]
    fresh = [batch(loader_of(path), step)[0].tobytes() for step in range(20)]
    assert forwards == backwards[::-1] == fresh
    assert forwards != [batch(loader_of(path, seed=2), step)[0].tobytes() for step in range(20)]


def test_position_and_epochs_count_what_was_read(make_blend: MakeBlend) -> None:
    loader = loader_of(make_blend(WEIGHTS, SIZES))
    sources = loader.schedule.sources(0, 4 * 17)
    assert loader.position(4 * 17) == {name: int((sources == place).sum()) for place, name in enumerate("abc")}
    assert loader.position(0) == {"a": 0, "b": 0, "c": 0}
    assert loader.epochs["a"] == pytest.approx(0.6 * 1_000 * 8 / 62, rel=0.01)


def test_a_source_shorter_than_a_sequence_goes_round(make_blend: MakeBlend) -> None:
    loader = loader_of(make_blend({"a": 1.0}, {"a": [[4, 3]]}), context=32)
    inputs_BL, _ = batch(loader, 0)
    assert set(documents_of(inputs_BL[0])[:4]) == {(10, 11, 12, 2), (13, 14, 2)}


def test_sources_without_weight_and_empty_shards_are_passed_over(make_blend: MakeBlend) -> None:
    loader = loader_of(make_blend({"a": 1.0, "b": 0.0}, {"a": [[], [4, 3]], "b": [[]]}))
    assert [stream.name for stream in loader.streams] == ["a"]
    assert batch(loader, 0)[0].shape == (4, 8)


def test_large_token_ids_survive_in_both_types(make_blend: MakeBlend) -> None:
    for dtype in ("uint16", "int32"):
        stream = loader_of(make_blend({"a": 1.0}, {"a": [[60_000]]}, dtype)).streams[0]
        assert stream.read(0, 59_999)[-1] == 10 + 59_998


@pytest.mark.parametrize("damage", ["truncated", "missing", "index"])
def test_a_damaged_shard_is_named(make_blend: MakeBlend, tmp_path: Path, damage: str) -> None:
    path = make_blend(WEIGHTS, SIZES)
    tokens, index = tmp_path / "b-0.bin", tmp_path / "b-0.idx"
    if damage == "index":
        index.write_bytes(index.read_bytes()[:-4])
    elif damage == "missing":
        tokens.unlink()
    else:
        tokens.write_bytes(tokens.read_bytes()[:-4])
    with pytest.raises(CorruptArtifact, match=r"b-0\.(bin|idx)"):
        batch(loader_of(path), 0)


def test_another_number_of_documents_than_promised_is_named(make_blend: MakeBlend) -> None:
    path = make_blend({"a": 1.0}, SIZES)
    blend = json.loads(path.read_text())
    blend["sources"]["a"]["shards"][1]["documents"] = 4
    path.write_text(json.dumps(blend))
    with pytest.raises(CorruptArtifact, match=r"a-1\.idx has 3 documents; the blend promises 4"):
        [batch(loader_of(path), step) for step in range(9)]


def test_a_missing_blend_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"blend\.json"):
        loader_of(tmp_path / "blend.json")


def test_permutations_are_shuffles_that_stay_the_same() -> None:
    assert sorted(permutation(1_000, 1, "a", 0)) == list(range(1_000))
    assert list(permutation(10, 1, "a", 0)) == [1, 6, 3, 2, 4, 8, 0, 9, 7, 5], "a changed order would change every run"
    orders = [tuple(permutation(6, seed)) for seed in range(2_000)]
    assert len(set(orders)) > 600
    first = np.bincount([order[0] for order in orders], minlength=6)
    assert first.min() > 270
    assert first.max() < 400
    neighbours = sum(after - before == 1 for before, after in itertools.pairwise(permutation(10_000, 5)))
    assert neighbours < 10
