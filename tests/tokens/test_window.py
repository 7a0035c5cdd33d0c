"""The order of documents in a token file: shuffled within windows, nothing lost, the same again."""

from __future__ import annotations

import numpy as np
import pytest

from sidewinder.tokens import window as module
from sidewinder.tokens.window import Window, with_ends

EOS = 2


def documents(count: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Document i is i + 10 written i % 7 times; some are empty."""
    sizes = np.arange(first, first + count) % 7
    return np.repeat(np.arange(first, first + count, dtype=np.uint32) + 10, sizes), sizes


def split(tokens: np.ndarray, sizes: np.ndarray) -> list[list[int]]:
    assert sizes.sum() == len(tokens)
    return [part.tolist() for part in np.split(tokens, np.cumsum(sizes)[:-1])]


def test_each_document_is_ended() -> None:
    ended = with_ends(np.array([5, 6, 7]), np.array([2, 0, 1]), EOS, np.uint16)
    assert ended.tolist() == [5, 6, EOS, EOS, 7, EOS]
    assert ended.dtype == np.uint16
    assert with_ends(np.empty(0), np.empty(0, int), EOS, np.uint16).tolist() == []


@pytest.mark.parametrize("counts", [[1], [100], [60, 1, 39], [1] * 100])
def test_a_window_holds_each_document_once_however_they_came(counts: list[int]) -> None:
    window, first = Window("source/train-00000", EOS, np.int32), 0
    for count in counts:
        window.add(*documents(count, first))
        first += count
    found = split(*window.take())
    expected = split(with_ends(*documents(first), EOS, np.int32), documents(first)[1] + 1)
    assert sorted(found) == sorted(expected)
    assert found != expected or first == 1
    whole = Window("source/train-00000", EOS, np.int32)
    whole.add(*documents(first))
    assert split(*whole.take()) == found


def test_windows_and_shards_differ_in_order() -> None:
    window, orders = Window("source/train-00000", EOS, np.uint16), []
    for name in ("source/train-00001", "source/train-00000"):
        other = Window(name, EOS, np.uint16)
        other.add(*documents(50))
        orders.append(split(*other.take()))
    for _ in range(2):
        window.add(*documents(50))
        orders.append(split(*window.take()))
    assert orders[1] == orders[2]
    assert len({str(order) for order in orders}) == 3


def test_held_out_documents_keep_their_order() -> None:
    window = Window("source/heldout-00000", EOS, np.uint16, shuffle=False)
    window.add(*documents(50))
    assert window.full
    assert split(*window.take())[:3] == [[EOS], [11, EOS], [12, 12, EOS]]


def test_full_at_its_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_TOKENS", 100)
    window = Window("a/train-00000", EOS, np.uint16)
    window.add(np.zeros(98, int), np.array([98]))
    assert not window.full
    window.add(np.zeros(0, int), np.array([0]))
    assert window.full
    assert window.take()[1].sum() == 100
    assert not window.full
    assert window.take()[0].size == 0
