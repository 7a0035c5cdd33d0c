"""Which transformers class holds a model, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidewinder.config.model import ModelConfig
from sidewinder.errors import SidewinderError

if TYPE_CHECKING:  # Choosing a class needs no torch, so that a study can be checked quickly.
    from torch import Tensor

Weights = dict[str, "Tensor"]


class ExportError(SidewinderError):
    """A checkpoint has no equal in the other format, or what was written does not equal it."""


@dataclass(frozen=True)
class Target:
    """One transformers class: what speaks against it for a model, its configuration, its weights."""

    model_class: str
    model_type: str
    against: Callable[[ModelConfig], list[str]]
    """Options of a model that the class does not have; empty where it fits."""
    settings: Callable[[ModelConfig], dict[str, Any]]
    """Entries of config.json that follow from the model."""
    weights: Callable[[Mapping[str, Tensor]], Weights]
    """Our tensors under the class's names."""

    def config(self, model: ModelConfig, *, vocab_size: int, context_tokens: int, bos: int, eos: int) -> dict[str, Any]:
        """Content of config.json."""
        return {
            "architectures": [self.model_class],
            "model_type": self.model_type,
            "dtype": "float32",
            "vocab_size": vocab_size,
            "hidden_size": model.hidden_size,
            "initializer_range": model.init_std,
            "max_position_embeddings": context_tokens,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": None,
            "tie_word_embeddings": False,
            "use_cache": True,
            **self.settings(model),
        }


def choose(model: ModelConfig, targets: list[Target]) -> Target:
    """The first target that a model fits. Raises ExportError with every target's objection where none does."""
    objections = {target.model_class: target.against(model) for target in targets}
    for target in targets:
        if not objections[target.model_class]:
            return target
    listed = "\n    ".join(f"{name}: {'; '.join(found)}" for name, found in objections.items())
    raise ExportError(
        f"no transformers class holds the model with pattern {model.layers!r}, norm {model.norm!r}:\n    {listed}",
        remedy="change what the nearest class objects to, or set `export: false`",
    )


def pattern_objection(model: ModelConfig, allowed: str, needed: str = "") -> list[str]:
    """Objections to the letters of a pattern."""
    foreign = sorted(set(model.layers) - set(allowed))
    missing = sorted(set(needed) - set(model.layers))
    found = [f"pattern: no layers {', '.join(map(repr, foreign))}"] if foreign else []
    return found + ([f"pattern: needs a layer {', '.join(map(repr, missing))}"] if missing else [])


def norm_objection(model: ModelConfig, norm: str) -> list[str]:
    return [] if model.norm == norm else [f"norm: {norm} only, not {model.norm}"]


def activation_objection(model: ModelConfig, *allowed: str) -> list[str]:
    """Objection to the activation of the MLP layers; none where there are no such layers."""
    if "-" not in model.layers or model.mlp.activation in allowed:
        return []
    return [f"mlp.activation: {' or '.join(allowed)} only, not {model.mlp.activation}"]


def renamed(weights: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> Weights:
    """Weights with the first matching prefix of each name replaced."""
    out: Weights = {}
    for name, tensor in weights.items():
        prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
        out[prefixes[prefix] + name.removeprefix(prefix)] = tensor
    return out
