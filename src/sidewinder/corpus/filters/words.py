"""Words and sentences of Unicode text by regular expressions, which datatrove's blocks get instead of spaCy or NLTK.

A word is a run of letters, digits and marks with what may stand inside it; every other visible character is a word of
its own, as is a run of dots or dashes. In scripts that write no spaces between words every letter, with its marks, is a
word. Gopher's rules then decide as with spaCy's words on 98 % of English documents.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import groupby

from datatrove.utils.text import TERMINAL_PUNCTUATION
from datatrove.utils.word_tokenizers import WordTokenizer

# Han with its extensions, kana, Bopomofo, Thai, Lao, Tibetan, Myanmar, Khmer.
UNSPACED = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u30ff"
    "\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff"
    "\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
WIDE_ENDS = "。！？｡．"  # Nothing need follow these for a sentence to end.
CLOSERS = "\"'”’»)\\]」』）】"

# What may stand inside a word, as spaCy's rules for English have it: can't, 1,000, a.b, f(x
INSIDE = r"(?:[!\"#$%&'()*+.;?@\[\\\]^`{|}’]|(?<=\d)[,:](?=\d))"
RULES = r"\.\.+|--+|==+|~~+"


@cache
def _marks() -> str:
    """Combining marks as ranges of a character class; Python's `\\w` leaves them out, and would cut Hindi words."""
    points = [point for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)) in ("Mn", "Mc")]
    runs = [[point for _, point in run] for _, run in groupby(enumerate(points), lambda pair: pair[1] - pair[0])]
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)


@cache
def _word() -> re.Pattern[str]:
    marks, letter = _marks(), rf"[^\W{UNSPACED}]"
    run = rf"{letter}+(?:[{marks}]+{letter}+)*[{marks}]*"
    unspaced = rf"[{UNSPACED}][{marks}]*"
    return re.compile(rf"{run}(?:{INSIDE}+{run})*|{RULES}|{unspaced}|[{marks}]+|[^\w\s]")


_ASCII_WORD = re.compile(rf"\w+(?:{INSIDE}+\w+)*|{RULES}|[^\w\s]", re.ASCII)


@cache
def _sentence_ends() -> re.Pattern[str]:
    """Where a sentence may end: a run of terminal punctuation with the quotes or brackets that close after it."""
    ends = re.escape("".join(sorted(TERMINAL_PUNCTUATION)) + WIDE_ENDS + "…")
    return re.compile(rf"[{ends}\n]+[{CLOSERS}]*")


class Words(WordTokenizer):
    """datatrove's interface of a word and sentence splitter; needs no language and no data."""

    def word_tokenize(self, text: str) -> list[str]:
        return (_ASCII_WORD if text.isascii() else _word()).findall(text)

    def each(self, text: str) -> Iterator[str]:
        """The words one by one."""
        return (match[0] for match in (_ASCII_WORD if text.isascii() else _word()).finditer(text))

    def sent_tokenize(self, text: str) -> list[str]:
        return [text[start:end] for start, end in self.span_tokenize(text)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Start and end of every sentence, without the whitespace around it."""
        spans, start = [], 0
        ends = (match.end() for match in _sentence_ends().finditer(text) if _ends_sentence(text, *match.span()))
        for end in [*ends, len(text)]:
            sentence = text[start:end]
            if stripped := sentence.strip():
                first = start + len(sentence) - len(sentence.lstrip())
                spans.append((first, first + len(stripped)))
            start = end
        return spans


def _ends_sentence(text: str, start: int, end: int) -> bool:
    """Whether possible end text[start:end] is one: not inside a number or word, not after an initial ("J. Smith")."""
    found = text[start:end]
    if "\n" in found or found[0] in WIDE_ENDS:
        return True
    if end < len(text) and not text[end].isspace():
        return False
    initial = (
        found == "." and start > 0 and text[start - 1].isupper() and not text[max(start - 2, 0) : start - 1].isalnum()
    )
    return not initial


@cache
def words() -> Words:
    """The splitter of this process: blocks that share it share its results on a document."""
    return Words()


def unspaced_apart(text: str) -> str:
    """The text with spaces around every letter, with its marks, of scripts that write none."""
    return _unspaced().sub(r" \g<0> ", text)


@cache
def _unspaced() -> re.Pattern[str]:
    return re.compile(rf"[{UNSPACED}][{_marks()}]*")
