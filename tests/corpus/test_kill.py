"""A build that is killed leaves no process and no lock behind, and the same command finishes it."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.corpus.conftest import sentence, write_jsonl

from sidewinder.corpus.build import build_source
from sidewinder.corpus.execute import execute
from sidewinder.errors import DataError
from sidewinder.graph import Graph
from sidewinder.record import outputs_of

SCRIPT = """
import sys
from sidewinder.config.load import load_study
from sidewinder.corpus.build import build_source
from sidewinder.graph import Graph

if __name__ == "__main__":
    build_source(Graph(load_study(sys.argv[1])), "text", 2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for child processes in /proc")
def test_a_killed_build_is_finished_by_the_same_command(tmp_path: Path, graph_of: Callable[..., Graph]) -> None:
    for file in range(16):
        rows = [{"text": sentence(10_000 * file + line, 60)} for line in range(200)]
        write_jsonl(tmp_path / "data" / f"{file}.jsonl", rows)
    reader = {"kind": "jsonl", "path": str(tmp_path / "data")}
    whole, killed = graph_of(reader, results="whole"), graph_of(reader, results="killed")
    build_source(whole, "text", 1)
    (tmp_path / "study.json").write_text(killed.study.model_dump_json())
    (tmp_path / "build.py").write_text(SCRIPT)
    kill_midway(tmp_path, killed.corpus("text"))
    build_source(killed, "text", 1)
    assert [entry.sha256 for entry in outputs_of(killed.corpus("text") / "record.json")] == [
        entry.sha256 for entry in outputs_of(whole.corpus("text") / "record.json")
    ]


def kill_midway(folder: Path, output: Path) -> None:
    """Starts the build and kills it alone, not its workers, once more tasks are done than before."""
    before = len(marks(output))
    process = subprocess.Popen([sys.executable, str(folder / "build.py"), str(folder / "study.json")])
    while process.poll() is None and len(marks(output)) <= before + 1:
        time.sleep(0.005)
    workers = list(children(process.pid))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "workers outlive a killed build"
        time.sleep(0.05)


def marks(output: Path) -> list[Path]:
    return list(output.glob(".scratch-*/read/completions/*"))


def children(pid: int) -> Iterator[str]:
    try:
        yield from Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return


DYING = """
import os
from datatrove.pipeline.base import PipelineStep


class Die(PipelineStep):
    name, type = "die", "test"

    def run(self, data=None, rank=0, world_size=1):
        if rank == 1:
            os.kill(os.getpid(), 9)
        yield from ()
"""


def test_a_killed_worker_stops_the_build_and_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.syspath_prepend(str(tmp_path))
    step = importlib.import_module("dying").Die()
    with pytest.raises(DataError, match="text read: a worker process was killed") as caught:
        execute("text read", [step], tmp_path / "log", tasks=4, workers=2)
    assert "fewer workers" in str(caught.value)
