"""Small studies over text that the tests make."""

import gzip
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from sidewinder.config.load import parse_study
from sidewinder.graph import Graph

WORDS = ["river", "stone", "lantern", "quiet", "morning", "engine", "letter", "garden", "winter", "bridge", "copper"]


def sentence(seed: int, words: int = 40) -> str:
    """Distinct text for every seed."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words)) + f" {seed}."


def write_jsonl(path: Path, lines: Iterable[bytes | dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def graph_of(tmp_path: Path) -> Callable[..., Graph]:
    """A study with one source, `text`, read by the reader given."""

    def make(reader: dict[str, Any], *, results: str = "results", **settings: Any) -> Graph:
        study = {name: settings.pop(name) for name in ("heldout_share", "lookup", "decontaminate") if name in settings}
        values = {
            "study": "test",
            "results": str(tmp_path / results),
            "sources": {"text": {"reader": reader, **settings}},
            "blend": {"text": 1.0},
            "heldout_share": 0.1,
            "models": {"toy": {"pattern": "*-", "hidden_size": 64}},
            "training": {
                "context_tokens": 64,
                "batch_sequences": 4,
                "budget_tokens": 10_000,
                "learning_rate": 1e-3,
                "minimum_learning_rate": 1e-4,
            },
        }
        return Graph(parse_study(values | study))

    return make
