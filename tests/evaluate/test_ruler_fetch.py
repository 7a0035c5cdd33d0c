"""RULER's two files of questions, fetched from a server on this machine."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidewinder.config.suites import Harness
from sidewinder.errors import DataError
from sidewinder.evaluate import needs, ruler
from sidewinder.evaluate.fetch import fetch, fetch_all
from sidewinder.evaluate.local_data import LocalData

from .ruler_sets import HOTPOT, SQUAD, hotpot, squad

SUITE = Harness(kind="harness", tasks=["ruler_qa_squad", "ruler_qa_hotpot"])


class Quiet(SimpleHTTPRequestHandler):
    """Calls everything plain text, of which a client thinks that it is Latin-1."""

    def guess_type(self, path: Any) -> str:
        return "text/plain"

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, at the addresses of both files."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for task, (place, _) in needs.FILES.items():
            address = f"http://127.0.0.1:{server.server_port}/{Path(place).name}"
            monkeypatch.setitem(needs.FILES, task, (place, address))
        yield folder
        server.shutdown()


def test_both_files_are_fetched_and_read(served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into, content = tmp_path / "data", {SQUAD: squad(random.Random(1), 5), HOTPOT: hotpot(random.Random(2), 30)}
    content[SQUAD]["data"][0]["paragraphs"][0]["context"] += " Zürich, 東京."
    for name, value in content.items():
        (served / Path(name).name).write_text(json.dumps(value, ensure_ascii=False))
    assert fetch([SUITE], into) == {}
    local = LocalData(into)
    assert {name: local.json(name) for name in content} == content
    entries = json.loads((into / "manifest.json").read_text())["datasets"]
    for name in content:
        given = (into / name).read_bytes()
        assert entries[name] == {
            "files": {Path(name).name: {"sha256": hashlib.sha256(given).hexdigest(), "bytes": len(given)}}
        }
    for task in SUITE.tasks:
        (sample,) = ruler.make(str(task), 4096, 1, str.split, seed=1, data=local)
        assert sample["outputs"][0] in sample["input"]
    for name in content:
        (served / Path(name).name).unlink()
    capsys.readouterr()
    assert fetch([SUITE], into) == {}
    assert f"{SQUAD}: there already" in capsys.readouterr().out
    assert sorted(path.name for path in into.iterdir()) == ["manifest.json", "ruler"]


def test_a_file_that_is_not_served_is_named(served: Path, tmp_path: Path) -> None:
    (served / Path(SQUAD).name).write_text(json.dumps(squad(random.Random(1), 1)))
    with pytest.raises(DataError, match=rf"1 data sets could not be fetched:\n  {HOTPOT}: HTTPError: 404 "):
        fetch_all([SUITE], tmp_path / "data")
    assert list(LocalData(tmp_path / "data").json(SQUAD)) == ["version", "data"]
    assert not (tmp_path / "data" / HOTPOT).exists()
