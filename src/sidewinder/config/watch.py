"""What a run does about numbers that are not finite, hangs and metrics: nothing here changes what is learnt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sidewinder.config.base import Strict

Budget = Annotated[int, Field(ge=0)]
Writer = Literal["tensorboard", "wandb"]


class NonFinite(Strict):
    """How often a stage may help itself when a loss or gradient is not finite; all zero stops it at the first.

    A step that is skipped leaves weights and optimizer as they were: that passes over a batch that is too much for the
    model. Going back to the newest save mends weights that a fault of the machine has spoilt. At the last step, after
    which none would show the fault, a stage goes back first. Every such step stands in the metrics and the catalog.
    """

    skips: Budget = 2
    """Steps skipped in a row; after more of them, the run goes back to its newest save."""
    skips_in_all: Budget = 10
    """Different steps skipped in the whole stage."""
    rollbacks: Budget = 3
    """Returns to a save in the whole stage. One that meets the same step again goes back to the save before, as long as
    `keep_saves` leaves one; then the run stops."""
