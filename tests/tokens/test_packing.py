"""Documents packed into sequences, and long ones chosen, each against a slow and obvious reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sidewinder.config.load import parse_study
from sidewinder.config.packing import LongDocuments
from sidewinder.config.training import Training
from sidewinder.errors import ConfigError, DataError
from sidewinder.tokens.lengths import histogram, named
from sidewinder.tokens.loader import BlendLoader
from sidewinder.tokens.packing import Packer
from sidewinder.tokens.stream import PackedStream, SourceStream
from sidewinder.train.batch import document_starts

MakeBlend = Callable[..., Path]
Part = tuple[int, int]
CONTEXT, EOS, IGNORED = 16, 2, -100


def sizes_of(seed: int, documents: int, largest: int = 50) -> list[int]:
    return np.random.default_rng(seed).integers(1, largest, size=documents).tolist()


def reference(documents: list[Part], context: int, window: int, carried: int) -> list[list[Part]]:
    """Best fit decreasing in windows, by looking at every open sequence for every part."""
    finished: list[list[Part]] = []
    waiting: list[Part] = []
    for start, size in documents:
        for skipped in range(0, size, context):
            part = (~(start + skipped) if skipped else start, min(context, size - skipped))
            if part[1] == context:
                finished.append([part])
            else:
                waiting.append(part)
    still_open: list[list[Part]] = []

    def room(sequence: list[Part]) -> int:
        return context - sum(length for _, length in sequence)

    for first in range(0, len(waiting), window):
        for part in sorted(waiting[first : first + window], key=lambda part: -part[1]):
            fitting = [sequence for sequence in still_open if room(sequence) >= part[1]]
            if fitting:
                min(fitting, key=room).append(part)
            else:
                still_open.append([part])
        finished += [sequence for sequence in still_open if not room(sequence)]
        still_open = [sequence for sequence in still_open if room(sequence)]
        kept = sorted(still_open, key=room)[max(0, len(still_open) - carried) :]
        finished += [sequence for sequence in still_open if not any(sequence is one for one in kept)]
        still_open = [sequence for sequence in still_open if any(sequence is one for one in kept)]
    return finished + still_open


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("window", "carried"), [(7, 2), (50, 0), (1_000, 64)])
def test_the_packer_lays_what_the_reference_lays(
    monkeypatch: pytest.MonkeyPatch, seed: int, window: int, carried: int
) -> None:
    monkeypatch.setattr("sidewinder.tokens.packing.WINDOW_PARTS", window)
    monkeypatch.setattr("sidewinder.tokens.packing.CARRIED_SEQUENCES", carried)
    sizes = np.array([0, *sizes_of(seed, 200)])
    starts = np.cumsum(sizes) - sizes
    packer, found = Packer(CONTEXT), []
    for done in [packer.add(starts[:90], sizes[:90]), packer.add(starts[90:], sizes[90:]), packer.close()]:
        parts = list(zip(done.starts.tolist(), done.lengths.tolist(), strict=True))
        ends = np.cumsum(done.parts).tolist()
        found += [parts[end - count : end] for end, count in zip(ends, done.parts.tolist(), strict=True)]
    expected = reference(list(zip(starts.tolist(), sizes.tolist(), strict=True)), CONTEXT, window, carried)
    assert sorted(found) == sorted(expected)


def packed(path: Path, **options: object) -> tuple[BlendLoader, PackedStream]:
    loader = BlendLoader(path, CONTEXT, 1, 1_000, "documents", **options)  # type: ignore[arg-type]
    stream = loader.streams[0]
    assert isinstance(stream, PackedStream)
    return loader, stream


def test_documents_lie_whole_in_sequences_and_every_token_is_predicted_once(make_blend: MakeBlend) -> None:
    sizes = [sizes_of(1, 60), [], sizes_of(2, 40)]
    path = make_blend({"a": 1.0}, {"a": sizes})
    loader, stream = packed(path)
    texts = {tuple(part.tolist()) for part in documents_in(path.parent, "a", 3)}
    previous = {now: before for text in texts for before, now in zip((EOS, *text), text, strict=False) if now != EOS}
    short, orders = [text for text in texts if 1 < len(text) <= CONTEXT], set()
    for epoch in range(3):
        inputs_BL, targets_BL = loader.sequences(epoch * stream.sequences, stream.sequences)
        predicted = targets_BL != IGNORED
        counted = Counter(targets_BL[predicted].tolist())
        missing = {token for text in texts for token in text} - set(counted)
        alone = 100 - counted.pop(EOS)  # Rests of an end of document alone.
        assert set(counted.values()) == {1}
        assert all(previous[token] != EOS for token in missing), "only first tokens of rests are not predicted"
        assert len(missing) + alone == stream.index.continued > 0
        assert predicted.sum() == stream.predicted_tokens
        whole = 0
        for inputs, targets in zip(inputs_BL.tolist(), targets_BL.tolist(), strict=True):
            row = tuple(inputs[1:] + targets[-1:])
            assert inputs[1:] == [token if token != IGNORED else row[place] for place, token in enumerate(targets)][:-1]
            whole += sum(is_in(text, row) for text in short)
        assert whole == len(short) > 20
        orders.add(inputs_BL.tobytes())
    assert len(orders) == 3, "every epoch has an order of its own"


def documents_in(folder: Path, name: str, shards: int) -> list[np.ndarray]:
    """Documents of all shards, cut behind each end of document."""
    tokens = np.concatenate([np.fromfile(folder / f"{name}-{shard}.bin", dtype=np.int32) for shard in range(shards)])
    return [part for part in np.split(tokens, np.flatnonzero(tokens == EOS) + 1) if len(part)]


def is_in(text: tuple[int, ...], row: tuple[int, ...]) -> bool:
    """Whether a document of distinct tokens lies in a row as a whole."""
    return text[0] in row and row[row.index(text[0]) :][: len(text)] == text


def test_resets_fall_on_the_token_before_every_document(make_blend: MakeBlend) -> None:
    path = make_blend({"a": 1.0}, {"a": [[5, 4, 3], [20]]})
    loader, stream = packed(path)
    inputs_BL, targets_BL = loader.sequences(0, stream.sequences)
    rows = sorted(inputs_BL.tolist())
    first = [EOS, *range(10, 14), EOS, *range(14, 17), EOS, 17, 18, EOS, EOS, EOS, EOS]
    assert rows[0] == first
    assert rows[1] == [EOS, *range(19, 34)]
    assert rows[2] == [34, *range(35, 38), EOS, *[EOS] * 11], "a rest begins with the token before it"
    starts_BL = document_starts(torch.from_numpy(inputs_BL), EOS).numpy()
    starts = dict(zip(map(tuple, inputs_BL.tolist()), starts_BL.tolist(), strict=True))[tuple(first)]
    assert [place for place, start in enumerate(starts) if start] == [0, 5, 9, 12, 13, 14, 15]
    targets = dict(zip(map(tuple, inputs_BL.tolist()), targets_BL.tolist(), strict=True))[tuple(first)]
    assert targets == [*first[1:13], *[IGNORED] * 4]
    assert loader.facts()["not_predicted_share"] == pytest.approx(1 / 3, abs=1e-6)


def test_packing_wastes_little(make_blend: MakeBlend) -> None:
    path = make_blend({"a": 1.0}, {"a": [sizes_of(3, 9_000, 12), sizes_of(4, 9_000, 12)]})
    loader, _ = packed(path)
    assert 0 < loader.facts()["not_predicted_share"] < 0.005


@pytest.mark.parametrize("minimum", [1, 10, 30, 49])
def test_chosen_documents_make_a_stream_of_their_own(make_blend: MakeBlend, minimum: int) -> None:
    path = make_blend({"a": 1.0}, {"a": [sizes_of(5, 50), sizes_of(6, 3, 5), sizes_of(7, 50)]})
    long = LongDocuments(minimum_tokens=minimum)
    loader = BlendLoader(path, CONTEXT, 1, 1_000, documents=long)
    (stream,) = loader.streams
    assert isinstance(stream, SourceStream)
    expected = [text for text in documents_in(path.parent, "a", 3) if len(text) >= minimum]
    assert stream.read(0, stream.tokens).tolist() == np.concatenate(expected).tolist()
    for epoch in (1, 2, 3):
        tokens = stream.read(epoch * stream.tokens, stream.tokens)
        found = [part.tolist() for part in np.split(tokens, np.flatnonzero(tokens == EOS) + 1) if len(part)]
        assert sorted(found) == sorted(text.tolist() for text in expected)
    assert loader.facts()["lengths"] == pytest.approx(shares_of(expected), abs=1e-5)
    assert loader.epochs == {"a long": pytest.approx(1_000 * CONTEXT / stream.tokens)}
    _, whole = packed(path, documents=long)
    assert whole.predicted_tokens + whole.index.continued == sum(map(len, expected))


def shares_of(texts: list[np.ndarray]) -> dict[str, float]:
    """Share of all tokens in documents of 1, 2 to 3, 4 to 7 … tokens."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts[str(2 ** (len(text).bit_length() - 1))] += len(text)
    return {edge: count / counts.total() for edge, count in counts.items()}


def test_a_share_of_long_documents_in_every_source_that_has_them(make_blend: MakeBlend) -> None:
    sizes = {"a": [sizes_of(8, 80)], "b": [sizes_of(9, 80)], "c": [[5] * 60]}
    path = make_blend({"a": 0.6, "b": 0.3, "c": 0.1}, sizes)
    loader = BlendLoader(path, CONTEXT, 1, 100_000, documents=LongDocuments(minimum_tokens=40, long_share=0.9))
    assert [stream.name for stream in loader.streams] == ["a long", "a", "b long", "b", "c"]
    shares = np.array(list(loader.position(100_000).values())) / 100_000
    assert np.abs(shares - [0.54, 0.06, 0.27, 0.03, 0.1]).max() < 0.001
    assert loader.warnings() == ["no documents of 40 tokens in c: read as usual"]
    loader.check_repeats(1e9, "a stage")
    epochs = loader.epochs
    often = ", ".join(f"{name} {epochs[name]:.1f} times" for name in ("a long", "b long", "c"))
    with pytest.raises(DataError, match=rf"^a stage: the text runs out .* through {often}, but repeat_at_most is"):
        loader.check_repeats(epochs["a"], "a stage")


def test_histograms_of_lengths() -> None:
    sizes = np.array([0, 1, 1, 2, 3, 4, 7, 8, 2**20 - 1, 2**20])
    assert named(histogram(sizes)[0]) == {"1": 2, "2": 2, "4": 2, "8": 1, "524288": 1, "1048576": 1}
    assert named(histogram(sizes)[1]) == {"1": 2, "2": 5, "4": 11, "8": 8, "524288": 2**20 - 1, "1048576": 2**20}


def test_packing_without_resets_is_refused() -> None:
    values = {"context_tokens": 16, "batch_sequences": 1, "budget_tokens": 160}
    rates = {"learning_rate": 1e-3, "minimum_learning_rate": 1e-4}
    with pytest.raises(ValueError, match="needs reset_documents: true"):
        Training.model_validate(values | rates | {"packing": "documents"})


def test_an_extension_may_choose_its_own_documents(tmp_path: Path) -> None:
    from tests.train.conftest import EXTENSION, study_values

    values = study_values(tmp_path, reset_documents=True)
    own = {"packing": "documents", "documents": {"minimum_tokens": 48, "long_share": 0.5}}
    study = parse_study(values | {"extensions": [EXTENSION | own]})
    training = study.extension_of("hybrid", study.extensions[0])
    assert (training.packing, training.documents) == ("documents", LongDocuments(minimum_tokens=48, long_share=0.5))
    assert (study.training.packing, study.training.documents) == ("concatenate", None)
    with pytest.raises(ConfigError, match="minimum_tokens"):
        parse_study(values | {"extensions": [EXTENSION | {"documents": {"long_share": 0.5}}]})
