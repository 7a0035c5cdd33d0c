"""An encoder that is killed at any moment leaves nothing that counts; run again, it makes the same bytes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.tokenizer.conftest import study_values
from tests.tokenizer.real_text import code, odd, translations

from sidewinder.config.load import parse_study, write_study
from sidewinder.corpus.build import build_source
from sidewinder.graph import Graph
from sidewinder.record import file_digest, read_record
from sidewinder.tokenizer.train import train_tokenizer
from sidewinder.tokens.encode import encode_shard

KILLS = 4
CHILD = """
import sys
from sidewinder.config.load import load_study
from sidewinder.graph import Graph
from sidewinder.tokens import encode, window
window.WINDOW_TOKENS = encode.BATCH_BYTES = 100_000
print("ready", flush=True)
encode.encode_shard(Graph(load_study(sys.argv[1])), "text", "train-00000", threads=2)
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """study.json over some 5 MB of text whose corpus and tokenizer are made."""
    folder = tmp_path_factory.mktemp("killed")
    texts = code(4000) + translations(4000) + odd(500)
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    values = study_values(folder) | {
        "sources": {"text": {"reader": {"kind": "jsonl", "path": str(folder / "text.jsonl")}, "minimum_characters": 1}},
        "blend": {"text": 1.0},
        "heldout_share": 0.01,
        "lookup": {"share": 0.0},
    }
    study = parse_study(values)
    graph = Graph(study)
    build_source(graph, "text")
    train_tokenizer(graph)
    write_study(study, folder / "study.json")
    return folder / "study.json"


def digests(graph: Graph) -> dict[str, str]:
    folder = graph.tokens("text", "train-00000")
    outputs = read_record(folder / "record.json")["outputs"]
    found = {entry["role"]: entry["sha256"] for entry in outputs}
    assert found == {role: file_digest(folder / f"tokens.{role}") for role in ("bin", "idx")}
    return found


def start(study: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(study)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    return child


def test_killed_encoders_change_nothing(study: Path) -> None:
    from sidewinder.config.load import load_study

    graph = Graph(load_study(study))
    folder = graph.tokens("text", "train-00000")
    begun = time.monotonic()
    assert start(study).wait() == 0
    took_s = time.monotonic() - begun
    undisturbed = digests(graph)
    for path in folder.iterdir():
        path.unlink()
    rng, killed = random.Random(3), 0
    for _ in range(KILLS):
        child = start(study)
        time.sleep(rng.random() * took_s)
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        if (folder / "record.json").exists():
            assert digests(graph) == undisturbed
            for path in folder.iterdir():
                path.unlink()
    assert killed
    assert start(study).wait() == 0
    assert digests(graph) == undisturbed
    assert not list(folder.glob("*.part"))


def test_threads_and_a_second_run_make_the_same_bytes(study: Path) -> None:
    from sidewinder.config.load import load_study

    graph = Graph(load_study(study))
    folder = graph.tokens("text", "train-00000")
    found = []
    for threads in (1, 3):
        for path in folder.glob("*"):
            path.unlink()
        encode_shard(graph, "text", "train-00000", threads=threads)
        found.append(digests(graph))
    assert found[0] == found[1]
    facts = read_record(folder / "record.json")["facts"]
    assert facts["encoder"].startswith("gigatoken")
    assert facts["encoder_check"]["equal"] == facts["encoder_check"]["documents"] > 1500
