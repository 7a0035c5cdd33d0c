"""Where text comes from, how it is cleaned and split, and how sources are blended."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from sidewinder.config.base import Count, Share, Strict
from sidewinder.config.filters import Deduplicate, Filter
from sidewinder.config.readers import Reader


class Source(Strict):
    """One named corpus."""

    reader: Reader
    language: str = "en"
    licence: str | None = None
    shards: Count = 1
    """Training shards; each is tokenized as a job of its own."""
    minimum_characters: Count = 100
    """Shorter documents are dropped."""
    filters: list[Filter] = Field(default_factory=list)
    """What else drops documents, in this order."""
    deduplicate: Deduplicate = "exact"


MOST_ENTRIES = 500_000
"""Names of people that a book can draw from: Faker has some 690,000 pairs of first and last name."""


class Lookup(Strict):
    """Synthetic look-up documents in the training blend: small phone books whose entries are asked for again.

    Small models learn to copy from context far sooner when the blend holds some; the share is stated because it is
    part of the experiment.
    """

    share: Share = 0.0
    """Share of all training tokens; the text sources share the rest as `blend` says."""
    documents: Count = 20_000
    shards: Count = 1
    """Parts that are made and tokenized by jobs of their own."""
    entries: tuple[Count, Count] = (2, 16)
    """Fewest and most entries of a book; drawn log-uniformly."""
    grow_share: Share = 0.0
    """A curriculum: over this share of a stage, the most entries grow from the fewest, doubling at equal distances, and
    the documents are read in that order, once, whatever the budget. 0 mixes all sizes from the start."""
    questions: Count | None = None
    """Questions that follow a book; null asks for each entry once. More than it has entries ask for all of them again,
    each time in another order, which gives short books as many answers to learn from as long ones."""
    reversed_share: Share = 0.5
    """Share of documents that put the question before the book."""
    digits: Count = 4
    """Digits of a number."""
    seed: int = 1

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        if self.entries[0] > self.entries[1]:
            raise ValueError(f"entries must be [fewest, most], got {list(self.entries)}")
        if self.entries[1] > MOST_ENTRIES:
            raise ValueError(
                f"entries: a book of {self.entries[1]:,} needs more names than there are; use {MOST_ENTRIES:,}"
            )
        if self.shards > self.documents:
            raise ValueError(f"shards ({self.shards}) exceeds documents ({self.documents})")
        return self
