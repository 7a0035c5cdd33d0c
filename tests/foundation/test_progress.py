"""The progress line: what a person reads, and what the live view reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidewinder.progress import Progress, duration


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (75.9, "1:15"), (3661, "1:01:01")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_line_counts_from_where_a_resumed_job_began() -> None:
    progress = Progress("hybrid-s1 pretrain-256", total=300, unit="step", done=100)
    progress.update(50, loss="5.214", lr="1.0e-03")
    line = progress.line()
    assert line.startswith("hybrid-s1 pretrain-256  150/300 step  50 % | loss 5.214 | lr 1.0e-03 | ETA 0:0")


def test_live_view_file_exists_while_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEWINDER_PROGRESS", str(tmp_path))
    with Progress("tokens", total=2, unit="documents") as progress:
        state = json.loads((tmp_path / f"{os.getpid()}.json").read_text())
        assert state["pid"] == os.getpid()
        assert state["line"].startswith("tokens  0/2 documents")
        assert list(progress.over("ab")) == ["a", "b"]
    assert not list(tmp_path.iterdir())


def test_logs_get_whole_lines() -> None:
    code = "from sidewinder.progress import Progress\nwith Progress('x', total=1, unit='step') as p: p.update()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "\r" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("x  1/1 step 100 %")
