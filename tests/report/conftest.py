"""What the report tests share: the small results folder of the catalog tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sidewinder.catalog import build_catalog
from sidewinder.graph import Graph
from sidewinder.report.build import build_report


def _load() -> ModuleType:
    """The helper module of the catalog tests; tests are not a package, so it is loaded by its path."""
    path = Path(__file__).parents[1] / "catalog" / "small_results.py"
    spec = importlib.util.spec_from_file_location("small_results", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["small_results"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small() -> ModuleType:
    return _load()


@pytest.fixture(scope="session")
def built(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A finished study with its report, shared by all tests: they only read it."""
    graph = small.graph_of(small.study_values(tmp_path_factory.mktemp("built") / "results"))
    small.fill(graph)
    build_catalog(graph.results, graph.catalog, graph.records)
    build_report(graph)
    return graph


@pytest.fixture
def graph(small: ModuleType, tmp_path: Path) -> Graph:
    """A finished study that a test may change."""
    graph = small.graph_of(small.study_values(tmp_path / "results"))
    small.fill(graph)
    return graph
