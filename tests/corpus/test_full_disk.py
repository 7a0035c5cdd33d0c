"""A disk that is full: the job says so, leaves nothing half-written, and goes on when there is room."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.corpus.conftest import sentence, write_jsonl

from sidewinder.corpus.build import build_source
from sidewinder.graph import Graph

LARGEST_BYTES = 50_000  # Of a file that the job may write.


def test_no_room(tmp_path: Path, graph_of: Callable[..., Graph]) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": sentence(number, 200)} for number in range(2000)])
    graph = graph_of({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")})
    (tmp_path / "study.json").write_text(graph.study.model_dump_json())
    folder = graph.corpus("text") / "train-00000"
    command = [sys.executable, "-m", "sidewinder", "corpus", "--config", str(tmp_path / "study.json"), "--into", folder]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_BYTES, LARGEST_BYTES)),
    )
    assert done.returncode == 1
    assert f"error: corpus text/train-00000: cannot write to {folder}: File too large" in done.stderr
    assert "remedy: free space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not {"record.json", "text.jsonl.zst"} & {path.name for path in folder.iterdir()}
    assert not list(folder.glob(".*.part"))
    build_source(graph, "text")
