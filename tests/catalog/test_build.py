"""The catalog file: readers are never in the way, and a build that fails leaves the old file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from sidewinder.catalog import CatalogError, build_catalog, query
from sidewinder.graph import Graph

LIMITED_DISK = """
import resource, sys
from pathlib import Path
from sidewinder.catalog import CatalogError, build_catalog
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    build_catalog(Path(sys.argv[1]), Path(sys.argv[2]))
except CatalogError as error:
    print(error)
    sys.exit(7)
"""


def test_a_reader_keeps_its_file_while_it_is_rebuilt(graph: Graph) -> None:
    build_catalog(graph.results, graph.catalog)
    with duckdb.connect(str(graph.catalog), read_only=True) as reader:
        (graph.export(graph.stages[0]) / "record.json").unlink()
        build_catalog(graph.results, graph.catalog)
        assert reader.execute("SELECT count(*) FROM exports").fetchall() == [(3,)]
    assert query(graph.results, "SELECT count(*) FROM exports").rows == [(2,)]


def test_a_build_without_room_leaves_the_old_catalog(graph: Graph) -> None:
    build_catalog(graph.results, graph.catalog)
    before = graph.catalog.read_bytes()
    command = [sys.executable, "-c", LIMITED_DISK, str(graph.results), str(graph.catalog)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert str(graph.catalog) in done.stdout
    assert "remedy" in done.stdout
    assert graph.catalog.read_bytes() == before
    assert leftovers(graph.results) == []


def leftovers(results: Path) -> list[Path]:
    return [path for path in results.glob(".study.duckdb*") if not path.name.endswith(".lock")]


def test_what_a_killed_build_left_is_removed(graph: Graph) -> None:
    (graph.results / ".study.duckdb.part").write_bytes(b"half a database")
    (graph.results / ".study.duckdb.part.wal").write_bytes(b"half a log")
    build_catalog(graph.results, graph.catalog)
    assert leftovers(graph.results) == []
    assert query(graph.results, "SELECT count(*) FROM runs").rows == [(2,)]


def test_a_file_that_is_no_catalog(graph: Graph) -> None:
    graph.catalog.write_text("not a database, but long enough to be looked at as one" * 100)
    with pytest.raises(CatalogError, match=r"cannot open .*study\.duckdb"):
        query(graph.results, "SELECT 1")
