"""Corpus: sources are read, cleaned, deduplicated and split into training shards and held-out documents.

`build.build_source` makes one source's folder; `check.check_sources` looks, before any work, whether all can be made.
"""
