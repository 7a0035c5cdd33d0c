"""The loader: every token of every epoch once, in shuffled order, as a pure function of seed and step."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sidewinder.config.packing import Packing
from sidewinder.errors import CorruptArtifact
from sidewinder.tokens.loader import BlendLoader
from sidewinder.tokens.stream import SourceStream

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


def stream_of(loader: BlendLoader, place: int = 0) -> SourceStream:
    stream = loader.streams[place]
    assert isinstance(stream, SourceStream)
    return stream


@pytest.mark.parametrize("run_sequences", [30, 90, 400], ids=["shorter", "as long", "longer"])
def test_a_curriculum_is_read_once_from_first_to_last(make_blend: MakeBlend, run_sequences: int) -> None:
    path = make_blend({"a": 0.5, "c": 0.5}, SIZES | {"c": [[3] * 120]})
    blend = json.loads(path.read_text())
    blend["sources"]["c"]["in_order"] = True
    path.write_text(json.dumps(blend))
    loader = BlendLoader(path, 8, 1, run_sequences)
    inputs_BL, _ = loader.sequences(0, run_sequences)
    mine = loader.schedule.sources(0, run_sequences) == 1
    firsts = inputs_BL[mine].max(axis=1)  # Tokens are numbered through the source, but for ends of documents.
    assert (np.diff(firsts) >= 0).all()
    assert firsts[0] < 20
    assert firsts[-1] >= inputs_BL[mine].max() > 230, "the last of 250 tokens come last"
    counts = np.unique(firsts, return_counts=True)[1]
    assert counts.max() - counts.min() <= 1, "no part of the source is read more often than another"


def test_each_epoch_holds_every_document_once_and_whole(make_blend: MakeBlend) -> None:
    stream = stream_of(loader_of(make_blend(WEIGHTS, SIZES)))
    as_it_lies = documents_of(stream.read(0, stream.tokens))
    assert [len(document) for document in as_it_lies] == [size for shard in SIZES["a"] for size in shard]
    begin = set()
    for epoch in range(40):
        documents = documents_of(stream.read(epoch * stream.tokens, stream.tokens))
        turn = as_it_lies.index(documents[0])
        assert documents == as_it_lies[turn:] + as_it_lies[:turn]
        begin.add(turn)
    assert len(begin) > 5, "later epochs begin elsewhere, so that they are cut elsewhere"


def test_every_token_of_an_epoch_is_predicted_once_and_in_no_order(make_blend: MakeBlend) -> None:
    """Against the concatenation of the files, for a context that divides the tokens, so that epochs do not overlap."""
    path = make_blend({"a": 1.0}, {"a": [[7, 3, 12, 1, 9], [], [5, 5, 22]]})
    loader = loader_of(path)
    files = np.concatenate([np.fromfile(path.parent / f"a-{shard}.bin", dtype=np.int32) for shard in range(3)])
    assert len(files) == 64
    following = {tuple(pair) for pair in zip(files.tolist(), np.roll(files, -1).tolist(), strict=True)}
    orders = []
    for epoch in range(5):
        inputs_BL, targets_BL = loader.sequences(epoch * 8, 8)
        assert sorted(inputs_BL.ravel().tolist()) == sorted(files.tolist())
        pairs = set(zip(inputs_BL.ravel().tolist(), targets_BL.ravel().tolist(), strict=True))
        assert len(pairs - following) <= 1, "but for the last token of an epoch, before the first of the next"
        orders.append(tuple(inputs_BL[:, 0].tolist()))
    assert len(set(orders)) == 5


def test_samples_of_a_source_are_its_stream_cut_with_nothing_lost_or_repeated(make_blend: MakeBlend) -> None:
    context = 8
    loader = loader_of(make_blend(WEIGHTS, SIZES), context)
    samples: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for step in range(80):
        inputs_BL, targets_BL = batch(loader, step)
        for row, source in enumerate(loader.schedule.sources(step * 4, 4)):
            samples[source].append(np.append(inputs_BL[row], targets_BL[row, -1]))
    for source in range(len(loader.streams)):
        stream = stream_of(loader, source)
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
    places = stream_of(loader).places(np.arange(16)) * 16 // 4_000
    assert len(set(places.tolist())) == 4, "sixteen sequences, drawn from four long documents"


def test_reading_in_any_pieces_gives_the_same_stream(make_blend: MakeBlend) -> None:
    stream = stream_of(loader_of(make_blend(WEIGHTS, SIZES)))
    whole = stream.read(0, 4 * stream.tokens)
    for first, count in [(0, 1), (5, 100), (61, 2), (62, 62), (3, 200), (247, 1), (130, 100), (190, 58)]:
        assert (stream.read(first, count) == whole[first : first + count]).all()


@pytest.mark.parametrize("readers", [1, 2, 4, 8])
@pytest.mark.parametrize("packing", ["concatenate", "documents"])
def test_any_number_of_readers_and_any_resume_gives_the_same(
    make_blend: MakeBlend, readers: int, packing: Packing
) -> None:
    """Each reader takes its part of every batch, and is a new one from step 3 on."""
    path = make_blend(WEIGHTS, SIZES)
    whole = BlendLoader(path, 8, 1, 1_000, packing).sequences(0, 48)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for step in range(6):
        if step in (0, 3):
            loaders = [BlendLoader(path, 8, 1, 1_000, packing) for _ in range(readers)]
        size = 8 // readers
        found += [loader.sequences(step * 8 + place * size, size) for place, loader in enumerate(loaders)]
    for place in (0, 1):
        assert (np.concatenate([batch[place] for batch in found]) == whole[place]).all()


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
        stream = stream_of(loader_of(make_blend({"a": 1.0}, {"a": [[60_000]]}, dtype)))
        assert stream.read(0, 59_999)[-1] == 10 + 59_998


@pytest.mark.parametrize("damage", ["truncated", "missing", "altered", "index"])
def test_a_damaged_shard_is_named(make_blend: MakeBlend, tmp_path: Path, damage: str) -> None:
    path = make_blend(WEIGHTS, SIZES)
    batch(loader_of(path), 0)
    tokens, index = tmp_path / "b-0.bin", tmp_path / "b-0.idx"
    if damage == "index":
        index.write_bytes(index.read_bytes()[:-4])
    elif damage == "missing":
        tokens.unlink()
    elif damage == "altered":
        tokens.write_bytes(tokens.read_bytes()[::-1])
        later(tokens, path)
    else:
        tokens.write_bytes(tokens.read_bytes()[:-4])
    with pytest.raises(CorruptArtifact, match=r"b-0\.(bin|idx)"):
        batch(loader_of(path), 0)


def test_all_damaged_shards_are_named_at_once(make_blend: MakeBlend, tmp_path: Path) -> None:
    path = make_blend(WEIGHTS, SIZES)
    (tmp_path / "a-1.bin").unlink()
    (tmp_path / "c-0.bin").write_bytes(b"")
    with pytest.raises(CorruptArtifact, match=r"a-1\.bin: No such file.*c-0\.bin: it has 0 bytes"):
        loader_of(path)


def test_equal_shards_written_later_are_read_through_once(make_blend: MakeBlend, tmp_path: Path) -> None:
    path = make_blend(WEIGHTS, SIZES)
    expected = batch(loader_of(path), 0)[0]
    assert not (tmp_path / "index").exists()
    later(tmp_path / "b-0.bin", path)
    assert (batch(loader_of(path), 0)[0] == expected).all()
    checked = (tmp_path / "index/checked.json").stat().st_mtime_ns
    assert "b-0" in (tmp_path / "index/checked.json").read_text()
    loader_of(path)
    assert (tmp_path / "index/checked.json").stat().st_mtime_ns == checked


def later(path: Path, than: Path) -> None:
    """Gives a file a later time than another has, as writing it a second later does."""
    time_ns = than.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(time_ns, time_ns))


def test_a_source_without_tokens_is_named(make_blend: MakeBlend) -> None:
    path = make_blend({"a": 0.5, "b": 0.5}, {"a": [[4]], "b": [[], []]})
    blend = json.loads(path.read_text())
    for shard in (shard for entry in blend["sources"].values() for shard in entry["shards"]):
        shard["text_bytes"] = 3 * shard["tokens"]
    path.write_text(json.dumps(blend))
    with pytest.raises(CorruptArtifact, match="source b has a share of the blend, but no tokens"):
        loader_of(path)


def test_more_shards_than_stay_open(make_blend: MakeBlend, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_blend({"a": 1.0}, {"a": [[3, 4]] * 20})
    expected = stream_of(loader_of(path)).read(0, 140)
    monkeypatch.setattr("sidewinder.tokens.store.OPEN_SHARDS", 3)
    before = len(os.listdir("/proc/self/fd"))
    stream = stream_of(loader_of(path))
    assert (stream.read(0, 140) == expected).all()
    assert len(os.listdir("/proc/self/fd")) <= before + 3


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
