"""Filters of a source: `blocks` builds them, a `Block` applies one and counts, `merged` adds up shards' counts."""

from sidewinder.corpus.filters.block import Block, Counts, merged
from sidewinder.corpus.filters.chain import blocks, files
from sidewinder.corpus.filters.check import decontamination_mistakes, mistakes

__all__ = ["Block", "Counts", "blocks", "decontamination_mistakes", "files", "merged", "mistakes"]
