"""Words and sentences of several scripts."""

import regex
from tests.corpus.real_text import texts

from sidewinder.corpus.filters.words import unspaced_apart, words


def test_words_of_english() -> None:
    found = words().word_tokenize("It's 1,000.5 well-known foo.bar(x) ... ---- (end).")
    assert found == ["It's", "1,000.5", "well", "-", "known", "foo.bar(x", ")", "...", "----", "(", "end", ")", "."]


def test_words_of_other_scripts() -> None:
    split = words().word_tokenize
    assert split("हिन्दी में।") == ["हिन्दी", "में", "।"]
    assert split("漢字です。") == ["漢", "字", "で", "す", "。"]
    assert split("Ёлка, приве\u0301т") == ["Ёлка", ",", "приве\u0301т"]
    assert split("한국어 문장") == ["한국어", "문장"]
    assert split("ที่นี่") == ["ที่", "นี่"]
    assert unspaced_apart("a漢字b").split() == ["a", "漢", "字", "b"]


def test_every_visible_character_is_in_a_word_once() -> None:
    for part in ("prose", "code", "translations"):
        for _, text in texts(part):
            assert "".join(words().word_tokenize(text)) == "".join(text.split())
            assert list(words().each(text)) == words().word_tokenize(text)


def test_ascii_words_are_those_of_the_rule_for_all_text() -> None:
    """ASCII has a faster rule of its own: a character beyond ASCII at the end must change nothing before it."""
    for part in ("prose", "code"):
        for _, text in texts(part):
            if text.isascii():
                assert words().word_tokenize(text + " é") == [*words().word_tokenize(text), "é"]


def test_sentences() -> None:
    split = words().sent_tokenize
    assert split('J. Smith went. He said "no." It cost 3.5 euros! Why?') == [
        "J. Smith went.", 'He said "no."', "It cost 3.5 euros!", "Why?",
    ]  # fmt: skip
    assert split("你好。再见。 नमस्ते। ठीक") == ["你好。", "再见。", "नमस्ते।", "ठीक"]
    assert split("one\n\ntwo") == ["one", "two"]
    assert split(" \n ") == []


def test_spans_are_in_order_and_cover_what_is_visible() -> None:
    for part in ("prose", "translations"):
        for _, text in texts(part):
            spans = words().span_tokenize(text)
            assert spans == sorted(spans)
            assert regex.sub(r"\s", "", text) == regex.sub(r"\s", "", "".join(text[a:b] for a, b in spans))
