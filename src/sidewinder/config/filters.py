"""Blocks that drop or edit documents of a source, deduplication, and decontamination.

The keys of a block are datatrove's own parameter names with its own defaults, so that a published recipe can be copied
as it stands. A threshold of null switches its rule off.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from sidewinder.config.base import WORD, Count, Share, Strict

Ratio = Annotated[float, Field(ge=0)]
NGram = Annotated[int, Field(ge=1, le=100)]


class GopherQuality(Strict):
    """Quality rules of Gopher (arXiv 2112.11446, appendix A.1). A word is what `corpus/filters/words.py` says."""

    kind: Literal["gopher_quality"]
    min_doc_words: Count | None = 50
    """Fewest words that are not punctuation."""
    max_doc_words: Count | None = 100_000
    min_avg_word_length: Ratio | None = 3
    """Shortest mean length of a word in characters; null for scripts that write no spaces between words."""
    max_avg_word_length: Ratio | None = 10
    max_symbol_word_ratio: Ratio | None = 0.1
    """Most hash signs, or ellipses, a word."""
    max_bullet_lines_ratio: Share | None = 0.9
    """Largest share of lines that begin with a bullet."""
    max_ellipsis_lines_ratio: Share | None = 0.3
    """Largest share of lines that end with an ellipsis."""
    max_non_alpha_words_ratio: Share | None = 0.8
    """Smallest share of words with a letter (datatrove's name for it says the opposite)."""
    min_stop_words: Count | None = 2
    """Fewest different stop words."""
    stop_words: list[str] | None = None
    """Null for the eight English ones of the paper; a source in another language needs its own, or none."""


class GopherRepetition(Strict):
    """Repetition rules of Gopher (arXiv 2112.11446, table A1)."""

    kind: Literal["gopher_repetition"]
    dup_line_frac: Share | None = 0.3
    """Largest share of lines that came before."""
    dup_para_frac: Share | None = 0.3
    """Largest share of paragraphs that came before."""
    dup_line_char_frac: Share | None = 0.2
    """Largest share of characters in lines that came before."""
    dup_para_char_frac: Share | None = 0.2
    """Largest share of characters in paragraphs that came before."""
    top_n_grams: list[tuple[NGram, Ratio]] = Field(default=[(2, 0.2), (3, 0.18), (4, 0.16)])
    """For each length in words, the largest share of characters in the most frequent n-gram."""
    dup_n_grams: list[tuple[NGram, Ratio]] = Field(
        default=[(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)]
    )
    """For each length in words, the largest share of characters in n-grams that came before."""


class C4Quality(Strict):
    """Line rules of C4 (arXiv 1910.10683, section 2.2): takes lines out of documents, and drops some documents."""

    kind: Literal["c4_quality"]
    split_paragraph: bool = True
    """Apply the rules to lines, as C4 did; false for sentences."""
    remove_citations: bool = True
    """Take marks such as [3] and [edit] out of lines."""
    filter_no_terminal_punct: bool = True
    """Take lines out that do not end in . ? ! or a quotation mark."""
    min_num_sentences: Count | None = 5
    """Documents with fewer sentences in the lines that stay are dropped."""
    min_words_per_line: Count | None = 3
    """Lines of fewer words are taken out."""
    max_word_length: Count | None = 1000
    """Lines with a longer word, in characters, are taken out."""
    filter_lorem_ipsum: bool = True
    """Drop documents with "lorem ipsum"."""
    filter_javascript: bool = True
    """Take lines out that mention JavaScript."""
    filter_curly_bracket: bool = True
    """Drop documents with a {."""
    filter_policy: bool = True
    """Take lines out that speak of cookies and terms of use."""


class C4Paragraphs(Strict):
    """mC4's rule: documents need three lines of at least 200 characters."""

    kind: Literal["c4_paragraphs"]


class C4BadWords(Strict):
    """C4's rule on bad words, by a list of the user's."""

    kind: Literal["c4_bad_words"]
    path: str
    """Text file, a word or phrase a line. Between words in scripts with spaces; anywhere for ja, th and zh."""
    keep_fraction: Share = 0.0
    """Share of the documents with such a word that stays, chosen by the hash of the text."""
    seed: int = 1


class FineWebQuality(Strict):
    """Line rules of FineWeb (arXiv 2406.17557, section 3.5)."""

    kind: Literal["fineweb_quality"]
    line_punct_thr: Share = 0.12
    """Smallest share of lines that end in terminal punctuation."""
    line_punct_exclude_zero: bool = False
    """Let documents pass that have no such line at all."""
    stop_chars: list[str] | None = None
    """What terminal punctuation is; null for that of all scripts."""
    short_line_thr: Share = 0.67
    """Largest share of short lines."""
    short_line_length: Count = 30
    """Characters up to which a line is short."""
    char_duplicates_ratio: Share = 0.01
    """Largest share of characters in lines that came before."""
    new_line_ratio: Ratio = 0.3
    """Most line ends a word."""


class Url(Strict):
    """Drops documents by the address they came from (metadata `url`), by lists of the user's and datatrove's."""

    kind: Literal["url"]
    domains: str | None = None
    """Text file of blocked domains and host names, one a line; # begins a comment."""
    urls: str | None = None
    """Text file of blocked addresses."""
    banned_words: str | None = None
    """Text file of words of which none may stand in an address."""
    banned_subwords: str | None = None
    """Text file of strings of which none may stand in an address, even inside a word."""
    soft_banned_words: str | None = None
    """Text file of words of which fewer than `soft_word_threshold` may stand in an address."""
    soft_word_threshold: Count = 2
    use_integrated_lists: bool = True
    """Use the lists that datatrove brings along, too."""
    without_url: Literal["drop", "keep"] = "drop"
    """What happens to documents without an address."""


class Regex(Strict):
    """Drops documents in which a regular expression (of Python's `re`) is found."""

    kind: Literal["regex"]
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}; use one that Python's re.compile accepts") from None
        return value


class Language(Strict):
    """Drops documents that a fastText model does not take for one of the languages."""

    kind: Literal["language"]
    model: str
    """Model file (.bin or .ftz) such as lid.176.bin or GlotLID's."""
    languages: Annotated[list[str], Field(min_length=1)]
    """Labels of the model, without `__label__`: en for lid.176, eng_Latn for GlotLID."""
    language_threshold: Share = 0.65
    """A language's score must be above it."""


Filter = Annotated[
    GopherQuality | GopherRepetition | C4Quality | C4Paragraphs | C4BadWords | FineWebQuality | Url | Regex | Language,
    Field(discriminator="kind"),
]


class MinHash(Strict):
    """Near duplicates by MinHash, as datatrove makes signatures; exact duplicates go first.

    Two documents that share the share s of their n-grams are found with probability
    1 - (1 - s^hashes_per_bucket)^buckets: 0.92 at s = 0.8 and 0.5 at s = 0.72 with the defaults.
    """

    kind: Literal["minhash"]
    ngram: NGram = 5
    """Words of a shingle."""
    buckets: Annotated[int, Field(ge=1, le=1000)] = 14
    hashes_per_bucket: Annotated[int, Field(ge=1, le=1000)] = 8
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1


def _word_or_block(value: object) -> str:
    return "minhash" if isinstance(value, dict | MinHash) else WORD


Deduplicate = Annotated[
    Annotated[Literal["exact", "none"], Tag(WORD)] | Annotated[MinHash, Tag("minhash")], Discriminator(_word_or_block)
]


class Decontaminate(Strict):
    """Drops training documents that share an n-gram of words with evaluation texts, as GPT-3's authors looked for them.

    Whole documents are dropped (GPT-3, appendix C, cut a window out): a document that holds a test item is rarely worth
    keeping, and its neighbourhood often holds the answer.
    """

    files: Annotated[list[str], Field(min_length=1)]
    """Evaluation texts: .jsonl (also .gz, .zst), every text in a line by itself; else text, paragraphs apart."""
    keys: list[str] | None = None
    """Keys of a JSON line whose texts count, at any depth; null for all."""
    ngram: NGram = 13
    """Words of an n-gram: lower case, without punctuation."""
    shortest: NGram = 8
    """An evaluation text of fewer words than `ngram` is looked for whole, if it has at least this many."""
