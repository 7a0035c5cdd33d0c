"""Evaluation texts in training documents: planted ones are found, near misses are not, and each file is counted."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.corpus.real_text import document, texts

from sidewinder.config.filters import Decontaminate
from sidewinder.corpus.decontaminate import Contamination, normalised
from sidewinder.errors import DataError


def questions(seed: int, count: int, length: int) -> list[list[str]]:
    """Texts of words that no package's prose has in this order."""
    rng = random.Random(seed)
    vocabulary = sorted({word for _, text in texts("prose") for word in text.lower().split() if word.isalpha()})
    return [[rng.choice(vocabulary) for _ in range(length)] for _ in range(count)]


def write_lines(path: Path, entries: list[Any]) -> str:
    content = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = zstandard.compress(content)
    path.write_bytes(content)
    return str(path)


def contamination(*files: str, **values: Any) -> Contamination:
    return Contamination(Decontaminate(files=list(files), **values))


def plant(words: list[str], seed: int) -> str:
    """A real text with some words in its middle."""
    parts = random.Random(seed).choice(texts("prose"))[1].split()
    middle = len(parts) // 2
    return " ".join([*parts[:middle], *words, *parts[middle:]])


def shared(one: str, other: str, ngram: int) -> bool:
    """The plain meaning of it: sets of tuples of words."""

    def grams(text: str) -> set[tuple[bytes, ...]]:
        words = normalised(text)
        return {tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)}

    return bool(grams(one) & grams(other))


def test_planted_texts_are_found_and_near_misses_are_not(tmp_path: Path) -> None:
    items = questions(1, 200, 20)
    found = contamination(write_lines(tmp_path / "test.jsonl", [{"question": " ".join(item)} for item in items]))
    rng = random.Random(2)
    contaminated = [plant(item[(start := rng.randrange(8)) : start + 13], place) for place, item in enumerate(items)]
    misses = [
        plant(item[(start := rng.randrange(8)) : start + 12], place) for place, item in enumerate(items)
    ]  # One word less.
    broken = [plant([*item[:7], "zebra", *item[8:]], place) for place, item in enumerate(items)]  # 7 words, and 12.
    assert sum(bool(found.matches(text)) for text in contaminated) == len(items)
    assert sum(bool(found.matches(text)) for text in misses + broken) == 0
    assert sum(bool(found.matches(text)) for _, text in texts("prose")) == 0


def test_case_punctuation_and_line_breaks_make_no_difference(tmp_path: Path) -> None:
    words = questions(3, 1, 13)[0]
    found = contamination(write_lines(tmp_path / "test.jsonl", [" ".join(words)]))
    dressed = "\n".join(f"«{word.title()}», " for word in words)
    assert found.matches(f"Before it. {dressed} — after it.")
    assert found.matches("".join(f'{word.upper()}!" \t' for word in words))


@pytest.mark.parametrize("ngram", [3, 8, 13])
def test_finds_what_sets_of_ngrams_find(tmp_path: Path, ngram: int) -> None:
    """Real texts of many languages against each other."""
    real = [text for part in ("prose", "translations") for _, text in texts(part)][::7]
    evaluation = [text for text in real[::10] if len(normalised(text)) >= ngram]
    found = contamination(write_lines(tmp_path / "test.jsonl", evaluation), ngram=ngram, shortest=ngram)
    expected = [any(shared(text, other, ngram) for other in evaluation) for text in real]
    assert [bool(found.matches(text)) for text in real] == expected
    assert len(evaluation) <= sum(expected) < len(real)


def test_short_evaluation_texts_are_looked_for_whole(tmp_path: Path) -> None:
    items = questions(4, 5, 10)
    lines = [" ".join(items[0]), " ".join(items[1][:8]), " ".join(items[2][:7]), "one two"]
    found = contamination(write_lines(tmp_path / "test.jsonl", lines))
    assert found.matches(plant(items[0], 1))
    assert not found.matches(plant(items[0][:9], 1))
    assert found.matches(plant(items[1], 1))
    assert not found.matches(plant(items[2], 1))  # Seven words: shorter than `shortest`.


def test_each_file_is_counted_and_the_first_is_the_reason(tmp_path: Path) -> None:
    one, other = questions(5, 2, 15)
    files = [write_lines(tmp_path / f"{name}.jsonl", [" ".join(words)]) for name, words in (("a", one), ("b", other))]
    found = contamination(*files)
    block = found.block()
    given = [plant(one, 1), plant(other, 2), plant(one + other, 3), plant([], 4)]
    out = list(block.run(document(text, place) for place, text in enumerate(given)))
    assert [entry.text for entry in out] == given[3:]
    counts = block.counts.as_dict()
    assert counts["matched"] == {files[0]: 2, files[1]: 2}
    assert {reason: entry["documents"] for reason, entry in counts["dropped"].items()} == {
        f"contaminated: {files[0]}": 2,
        f"contaminated: {files[1]}": 1,
    }
    assert counts["bytes_in"] == counts["bytes_out"] + sum(entry["bytes"] for entry in counts["dropped"].values())


def test_scripts_without_spaces(tmp_path: Path) -> None:
    found = contamination(
        write_lines(tmp_path / "test.jsonl", [{"q": "東京は日本の首都であり、世界最大の都市圏である。"}])
    )
    assert found.matches("地理:東京は日本の首都であり世界最大の都市。")
    assert not found.matches("東京は日本の首都。世界最大の国は。")


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "txt"])
def test_kinds_of_files(tmp_path: Path, suffix: str) -> None:
    one, other = (" ".join(words) for words in questions(6, 2, 13))
    path = tmp_path / f"test.{suffix}"
    if suffix == "txt":
        path.write_text(f"{one[:20]}\n{one[20:]}\n\n{other}\n".replace(one[:20] + "\n", one[:20]))
    else:
        write_lines(path, [{"question": one, "choices": {"text": ["yes", other]}}])
    found = contamination(str(path))
    assert found.matches(one)
    assert found.matches(other)
    assert not found.matches(" ".join([*one.split()[7:], *other.split()[:6]]))  # Across two texts.


def test_keys_choose_what_counts(tmp_path: Path) -> None:
    question, answer, note = (" ".join(words) for words in questions(7, 3, 13))
    file = write_lines(
        tmp_path / "test.jsonl", [{"doc": {"question": question, "answers": [{"text": answer}]}, "note": note}]
    )
    found = contamination(file, keys=["question", "answers"])
    assert [bool(found.matches(text)) for text in (question, answer, note)] == [True, True, False]


def test_files_that_cannot_serve_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"a": "b"}\nnot json\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2"):
        contamination(str(tmp_path / "bad.jsonl"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'"text"\n' * 1000)[:-20])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz"):
        contamination(str(tmp_path / "cut.jsonl.gz"))
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(b'"text"\n' * 1000)[:-5])
    with pytest.raises(DataError, match=r"cut\.jsonl\.zst"):
        contamination(str(tmp_path / "cut.jsonl.zst"))
    (tmp_path / "none.jsonl.zst").write_bytes(b"no zstandard")
    with pytest.raises(DataError, match=r"none\.jsonl\.zst"):
        contamination(str(tmp_path / "none.jsonl.zst"))
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        contamination(str(tmp_path / "missing.jsonl"))
    with pytest.raises(DataError, match="holds no text of 8 or more words"):
        contamination(write_lines(tmp_path / "short.jsonl", ["one two three"]))
