"""A small corpus of real text (docstrings, translations, sources) beside documents of odd characters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidewinder.config.load import parse_study
from sidewinder.corpus.build import build_source
from sidewinder.graph import Graph

ODD = [
    "tabs\tand\t\ttwo, newlines\n\n\nthree, CRLF\r\nand a lone \r return",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈 and a NUL \0 in the middle",
    "combining e\u0301 a\u030a, precomposed é å, Hangul \u1112\u1161\u11ab 한, ligature ﬁ, full width ＡＢ",
    "  leading spaces, trailing spaces   ",
    "byte order mark \ufeff, separators \u2028 \u2029 \u0085 \x0b \x0c, no-break \u00a0 and ideographic \u3000 space",
    "controls \x01\x02\x1b\x7f, noncharacter \uffff, last code point \U0010ffff, private \ue000",
    "looks like pieces: <0x0A> <s> </s> <unk> <|endoftext|> [INST]",
    "العربية עברית हिन्दी ไทย 日本語 中文 ქართული Ελληνικά",
]


def write_odd(folder: Path) -> None:
    lines = [{"text": f"{text} {number}"} for number in range(40) for text in ODD]
    (folder / "odd.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def study_values(folder: Path, **tokenizer: Any) -> dict[str, Any]:
    prose = {"kind": "packages", "part": "prose", "packages": ["click", "Jinja2"]}
    other = {"kind": "packages", "part": "translations", "packages": ["humanize"]}
    odd = {"kind": "jsonl", "path": str(folder / "odd.jsonl")}
    return {
        "study": "test",
        "results": str(folder / "results"),
        "sources": {
            "english": {"reader": prose, "shards": 2},
            "other": {"reader": other},
            "odd": {"reader": odd, "minimum_characters": 1},
        },
        "blend": {"english": 0.7, "other": 0.2, "odd": 0.1},
        "heldout_share": 0.2,
        "lookup": {"share": 0.1, "documents": 200},
        "tokenizer": {"vocab_size": 1000, "sample_bytes": 100_000, "character_coverage": 0.99} | tokenizer,
        "models": {"toy": {"pattern": "*-", "hidden_size": 64}},
        "training": {
            "context_tokens": 64,
            "batch_sequences": 4,
            "budget_tokens": 10_000,
            "learning_rate": 1e-3,
            "minimum_learning_rate": 1e-4,
        },
    }


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a study whose corpora are built."""
    folder = tmp_path_factory.mktemp("study")
    write_odd(folder)
    graph = Graph(parse_study(study_values(folder)))
    for source in graph.source_configs:
        build_source(graph, source)
    return folder


@pytest.fixture
def graph_of(corpus: Path) -> Callable[..., Graph]:
    """The study over that corpus; `graph_of(vocab_size=…)` changes tokenizer settings."""
    return lambda **tokenizer: Graph(parse_study(study_values(corpus, **tokenizer)))
