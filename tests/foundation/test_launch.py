"""One controller a results folder, whatever became of the last one; a live view that shows what runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sidewinder import launch
from sidewinder.config.load import parse_study
from sidewinder.errors import ConfigError
from sidewinder.graph import Graph
from sidewinder.progress import Progress

ROOT = Path(__file__).parents[2]
SMALL = yaml.safe_load((ROOT / "tests" / "workflow" / "study.yaml").read_text())
HOLDER = """
import sys, time
from types import SimpleNamespace
from pathlib import Path
from sidewinder.launch import claim_results
claim_results(SimpleNamespace(results=Path(sys.argv[1])))
print("claimed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return Graph(parse_study(SMALL | {"results": str(tmp_path / "results")}))


def test_second_controller_is_refused_until_the_first_is_gone(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PATIENCE_S", 0.1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(graph.results)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout
        assert first.stdout.readline() == "claimed\n"
        with pytest.raises(ConfigError, match=rf"process {first.pid} is already running a study(.|\n)*remedy"):
            launch.claim_results(graph)
        first.kill()
    launch.claim_results(graph)
    assert (graph.results / ".controller").read_text() == str(os.getpid())


def test_full_disk_is_told_before_any_work(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "FREE_BYTES", 1 << 60)
    with pytest.raises(ConfigError, match=r"GB free, less than(.|\n)*remedy: free some space"):
        launch.check_study(graph)


def test_live_view_lists_running_jobs(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEWINDER_PROGRESS", str(tmp_path))
    (tmp_path / "999999999.json").write_text('{"pid": 999999999, "line": "a process that has ended"}')
    (tmp_path / "broken.json").write_text("{")
    with Progress("hybrid-s1 pretrain-256", total=10, unit="step"):
        lines = [state["line"] for state in launch._running(tmp_path)]
    assert lines == ["hybrid-s1 pretrain-256  0/10 step   0 %"]
    assert graph.study.study in launch.summary(graph)
