"""Task definitions of a user's own: the folder that a suite names (`include_path`), in lm-eval's form."""

from __future__ import annotations

from pathlib import Path

from sidewinder.config.suites import Harness, Suite
from sidewinder.graph import Graph


def included_files(suite: Suite) -> list[Path]:
    """Every file of the folder, since definitions read others; none where a suite names no folder, or an absent one."""
    if not isinstance(suite, Harness) or suite.include_path is None:
        return []
    folder = Path(suite.include_path)
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not _hidden(path.relative_to(folder)))


def inputs_at(graph: Graph, run: str, stage: str, suite: str) -> list[Path]:
    """Files whose change makes a suite run again, for the folder names that Snakemake calls wildcards."""
    _, name = graph.evaluation_at(graph.results / "runs" / run / stage / "eval" / suite)
    return [*graph.data_manifest, *included_files(graph.study.suites[name])]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
