"""Readers of a source's pieces, one file a format."""

from __future__ import annotations

from sidewinder.config.corpus import Source
from sidewinder.corpus.pieces import Piece
from sidewinder.corpus.read.formats import spans
from sidewinder.corpus.read.reader import REASONS, Reader
from sidewinder.corpus.read.tally import Place

__all__ = ["REASONS", "Place", "Reader", "reader", "spans"]


def reader(config: Source, pieces: list[Piece]) -> Reader:
    """The datatrove step that yields the documents of the pieces; see Reader for what it counts."""
    return Reader(config, pieces)
