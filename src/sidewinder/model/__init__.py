"""The one language model: an architecture is a layer pattern and the sizes of its layers.

Names are loaded when first used, so that `sidewinder.model.pattern`, which the configuration needs, costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidewinder.model.cache import Cache as Cache
    from sidewinder.model.checkpoint import ModelInfo as ModelInfo
    from sidewinder.model.checkpoint import load_model as load_model
    from sidewinder.model.checkpoint import save_model as save_model
    from sidewinder.model.count import cache_bytes as cache_bytes
    from sidewinder.model.count import count_parameters as count_parameters
    from sidewinder.model.count import flops_per_token as flops_per_token
    from sidewinder.model.init import init_weights as init_weights
    from sidewinder.model.lm import LanguageModel as LanguageModel

_HOMES = {
    "Cache": "cache",
    "ModelInfo": "checkpoint",
    "load_model": "checkpoint",
    "save_model": "checkpoint",
    "cache_bytes": "count",
    "count_parameters": "count",
    "flops_per_token": "count",
    "init_weights": "init",
    "LanguageModel": "lm",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
