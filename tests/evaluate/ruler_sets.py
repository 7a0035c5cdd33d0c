"""Text for RULER's tasks in the folder form that the suites read, and a tokenizer with a large vocabulary.

Each paragraph has an answer that no other text has, so that a prompt without its gold document is found.
"""

from __future__ import annotations

import json
import random
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from sentencepiece import SentencePieceProcessor

from sidewinder.tokenizer.fast import Gigatoken
from sidewinder.tokenizer.train import train_pieces

from .local_sets import essay, words, write

SQUAD, HOTPOT = "ruler/dev-v2.0.json", "ruler/hotpot_dev_distractor_v1.json"


def write_ruler(folder: Path) -> Path:
    """Essays shorter than 128K tokens, and questions on a tenth more text than that."""
    write(folder, "baber/paul_graham_essays", "default", "train", [essay(random.Random(at), at) for at in range(12)])
    write_questions(folder, SQUAD, squad(random.Random(1), articles=35))
    return write_questions(folder, HOTPOT, hotpot(random.Random(2), questions=190))


def write_questions(folder: Path, name: str, content: Any) -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


def squad(rng: random.Random, articles: int, longest: int = 160) -> dict[str, Any]:
    """As dev-v2.0.json: two references a question, and every eighth without an answer."""
    made = []
    for article in range(articles):
        paragraphs = []
        for at in range(rng.randint(15, 45)):
            key, text = f"K{article:04d}{at:02d}", words(rng, rng.randint(longest // 3, longest))
            asked = {
                "question": f"What is number {at} of {article}?",
                "answers": [{"text": f"{key} {text.split()[0]}"}, {"text": key}],
                "is_impossible": at % 8 == 7,
            }
            paragraphs.append({"context": f"The {key} {text}.", "qas": [asked]})
        made.append({"title": str(article), "paragraphs": paragraphs})
    return {"version": "v2.0", "data": made}


def hotpot(rng: random.Random, questions: int, longest: int = 40) -> list[dict[str, Any]]:
    """As hotpot_dev_distractor_v1.json: ten documents a question, one of which has the answer."""
    made = []
    for place in range(questions):
        context = [
            [
                f"Title {place} {at}",
                [f"The K{place:04d}{at:02d} {words(rng, rng.randint(15, longest))}.", f" A {words(rng, longest)}."],
            ]
            for at in range(10)
        ]
        made.append(
            {"question": f"What of {place}?", "answer": f"K{place:04d}{rng.randrange(10):02d}", "context": context}
        )
    return made


def large_tokenizer(path: Path) -> SentencePieceProcessor:
    """Trained on Python's documentation and sources, and on RULER's own sentences, whose words all large ones have."""
    sources = [file.read_text(errors="ignore") for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]]
    noise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
    lines = (line for text in [*topics.values(), *sources, *[noise] * 50] for line in text.split("\n"))
    path.write_bytes(train_pieces(lines, 16_000, 0.99))
    return SentencePieceProcessor(model_file=str(path))


class Large:
    """A large vocabulary: SentencePiece's, and the same ids several times as fast."""

    def __init__(self, folder: Path) -> None:
        self.sentencepiece = large_tokenizer(folder / "tokenizer.model")
        self.fast = Gigatoken(folder / "tokenizer.model", self.sentencepiece)

    def encode(self, text: str) -> Any:
        return self.fast([text.encode()])[0]
