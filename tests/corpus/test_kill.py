"""A source whose jobs are killed at any moment is finished by the same command, with the same bytes."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.corpus.conftest import sentence, write_jsonl

from sidewinder.corpus.build import build_source
from sidewinder.graph import Graph
from sidewinder.record import outputs_of

SCRIPT = """
import sys
from sidewinder.config.load import load_study
from sidewinder.corpus.build import build_source
from sidewinder.graph import Graph

graph = Graph(load_study(sys.argv[1]))
print("begins", flush=True)
build_source(graph, "text")
"""
KILLS = 8


def digests(graph: Graph) -> list[str]:
    folder = graph.corpus("text")
    records = [folder / "record.json", *sorted(folder.glob("train-*/record.json"))]
    return [entry.sha256 for record in records for entry in outputs_of(record)]


def test_killed_at_any_moment(tmp_path: Path, graph_of: Callable[..., Graph]) -> None:
    for file in range(4):
        rows = [{"text": sentence(10_000 * file + line % 1500, 60)} for line in range(2000)]
        write_jsonl(tmp_path / "data" / f"{file}.jsonl", rows)
    reader = {"kind": "jsonl", "path": str(tmp_path / "data")}
    whole, killed = (graph_of(reader, results=name, shards=4) for name in ("whole", "killed"))
    started = time.monotonic()
    build_source(whole, "text")
    long = time.monotonic() - started
    (tmp_path / "study.json").write_text(killed.study.model_dump_json())
    rng = random.Random(1)
    kills = 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "study.json")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.6 * long))
            kills += process.poll() is None
            process.kill()
    assert kills >= KILLS // 2, "the source is built before most of the kills"
    folder = killed.corpus("text")
    for left in (".heldout-00000.jsonl.zst.9.part", ".exact-a/b", "duplicates/.train-00001.npy.9.part"):
        (folder / left).parent.mkdir(parents=True, exist_ok=True)
        (folder / left).touch()
    (folder / "duplicates" / ".twins-a").mkdir()
    build_source(killed, "text")
    assert digests(killed) == digests(whole)
    kept = {str(path.relative_to(folder)) for path in folder.rglob(".*")}
    assert kept == {str(path.relative_to(whole.corpus("text"))) for path in whole.corpus("text").rglob(".*")}
