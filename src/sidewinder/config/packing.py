"""How documents are laid into training sequences, and which of them a stage at a long context reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sidewinder.config.base import Count, Strict

Packing = Literal["concatenate", "documents"]


class LongDocuments(Strict):
    """Long documents for a long context: more of them than the blend has by itself (arXiv 2402.10171).

    The shares of the sources stay as the blend says: every source gives its own long documents. A source that has none
    is read as usual, and a warning says so.
    """

    minimum_tokens: Count
    """Fewest tokens of a long document, its end-of-document token included."""
    long_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each source's sequences that come from long documents alone; the rest come from all its documents."""
