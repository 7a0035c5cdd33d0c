"""The catalog: one DuckDB file in which every number can be traced to text, tokenizer, code and configuration.

`build_catalog` derives it from records, metrics and scores; `query` answers SQL and named queries; `render` prints.
"""

from sidewinder.catalog.build import build_catalog
from sidewinder.catalog.errors import CatalogError
from sidewinder.catalog.query import named_queries, query, run_query
from sidewinder.catalog.table import Table, render

__all__ = ["CatalogError", "Table", "build_catalog", "named_queries", "query", "render", "run_query"]
