"""The report: one HTML file, made from the catalog alone, that needs no network and no other file.

Equal catalogs and configurations give equal bytes: nothing here reads a clock.
"""

from __future__ import annotations

from sidewinder.graph import Graph
from sidewinder.record import write_atomically
from sidewinder.report.data import read_study
from sidewinder.report.page import page


def build_report(graph: Graph) -> None:
    """Writes results/report.html. Raises CatalogError where the catalog is missing."""
    study = graph.study
    data = read_study(graph.catalog, study.study, study.model_dump(mode="json"), list(study.models), study.evaluate)
    write_atomically(graph.report, page(data))
