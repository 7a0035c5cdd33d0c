"""All transformers classes that an export may take, in the order in which they are tried. Needs no torch."""

from __future__ import annotations

from sidewinder.config.model import ModelConfig
from sidewinder.export.mamba import MAMBA, MAMBA2, NEMOTRON_H
from sidewinder.export.target import Target, choose
from sidewinder.export.transformer import LLAMA, NEMOTRON, STABLELM

TARGETS = [MAMBA, MAMBA2, NEMOTRON_H, NEMOTRON, LLAMA, STABLELM]


def target_of(model: ModelConfig) -> Target:
    """The class that holds a model. Raises ExportError, naming the options in the way, where none does."""
    return choose(model, TARGETS)
