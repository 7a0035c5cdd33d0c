"""Which transformers class holds a model, under which settings and names: one description, read in both directions.

Export asks `config` and `weights`; import asks `read`, `objections`, `name` and `ours`. Each mapping is written once:
a configuration is taken only if our description of the model that it gives comes back the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidewinder.config.model import ModelConfig
from sidewinder.errors import SidewinderError

if TYPE_CHECKING:  # Choosing a class needs no torch, so that a study can be checked quickly.
    from torch import Tensor, dtype

Weights = dict[str, "Tensor"]
Settings = Mapping[str, Any]
LAYER_NORM = re.compile(r"(^|\.)(final_norm|layers\.\d+\.norm)\.weight$")
"""Our names of the norms that stand before mixers and head; a mixer's own gated norm is not among them."""


class ExportError(SidewinderError):
    """A checkpoint has no equal in the other format, or what was written does not equal it."""


@dataclass(frozen=True)
class Target:
    """One transformers class: what speaks against it for a model, its settings, the names of its tensors."""

    model_class: str
    model_type: str
    against: Callable[[ModelConfig], list[str]]
    """Options of a model that the class does not have; empty where it fits."""
    settings: Callable[[ModelConfig], dict[str, Any]]
    """Entries of config.json that follow from the model."""
    read: Callable[[Settings], dict[str, Any]]
    """The inverse: values of a ModelConfig from all settings of the class, defaults filled in."""
    name: Callable[[str], str]
    """The class's name of one of our tensors."""
    constants: Settings = field(default_factory=dict)
    """Further entries of config.json, equal for every model."""
    assumed: Settings = field(default_factory=dict)
    """Settings that are not written, because the class's defaults are what we mean."""
    harmless: frozenset[str] = frozenset()
    """Settings and constants that do not change what a model means, so that import takes any value."""
    plain_norms: bool = False
    """Whether the class stores the scale of its layer norms; we store the scale minus one."""
    older_names: Mapping[str, str] = field(default_factory=dict)
    """Prefixes of tensor names that transformers reads as well, and what they became."""
    ignored: str = r"(?!)"
    """Pattern of stored tensors that do not take part in the logits."""
    remarks: Callable[[Settings], list[str]] = lambda settings: []
    """What an importer should know of settings that are harmless, or nearly so."""

    def config(
        self, model: ModelConfig, *, vocab_size: int, context_tokens: int, bos: Any, eos: Any, dtype: str = "float32"
    ) -> dict[str, Any]:
        """Content of config.json."""
        return {
            "architectures": [self.model_class],
            "model_type": self.model_type,
            "dtype": dtype,
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
            **self.constants,
        }

    def values(self, settings: Settings) -> dict[str, Any]:
        """Values of the ModelConfig that settings of this class describe, not yet checked."""
        shared = {"hidden_size": settings["hidden_size"], "init_std": settings["initializer_range"]}
        return shared | self.read(settings)

    def objections(self, settings: Settings, model: ModelConfig | None) -> list[str]:
        """Settings that `model`, made from them, does not express; for None only those that do not depend on it."""
        wanted = dict(self.constants) | dict(self.assumed) | (self.settings(model) if model else {})
        found = [
            f"{key}: {value!r} only, not {given!r}"
            for key, value in _flat(wanted).items()
            if key not in self.harmless and (given := _flat(settings).get(key)) is not None and not _same(value, given)
        ]
        return found + (self.against(model) if model else [])

    def weights(self, weights: Mapping[str, Tensor]) -> Weights:
        """Our tensors under the class's names."""
        stored = weights["embedding.weight"].dtype
        return {self.name(name): self.theirs(name, tensor, stored) for name, tensor in weights.items()}

    def theirs(self, name: str, tensor: Tensor, stored: dtype) -> Tensor:
        """The class's tensor for ours of this name; a changed one is rounded to `stored` once."""
        changed = self.plain_norms and LAYER_NORM.search(name)
        return (tensor.float() + 1).to(stored) if changed else tensor

    def ours(self, name: str, tensor: Tensor) -> Tensor:
        """The inverse of `theirs`. A changed one is float32: in bf16 the scale minus one would lose digits."""
        return tensor.float() - 1 if self.plain_norms and LAYER_NORM.search(name) else tensor


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


def _flat(settings: Settings, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _same(wanted: Any, given: Any) -> bool:
    """Equal, whether a sequence was read as a list or a tuple."""
    plain = [list(value) if isinstance(value, tuple) else value for value in (wanted, given)]
    return plain[0] == plain[1]
