"""The config.json of a transformers folder as one of our models, or a list of all that stands in the way.

transformers' own configuration class reads the file, so that older names of settings and defaults mean what they mean
there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from transformers import CONFIG_MAPPING
from transformers.utils import logging

from sidewinder.config.model import ModelConfig
from sidewinder.errors import CheckpointError
from sidewinder.export.classes import TARGETS
from sidewinder.export.target import Target

CONFIG = "config.json"


@dataclass(frozen=True)
class Described:
    """What a config.json says."""

    target: Target
    model: ModelConfig
    vocab_size: int
    context_tokens: int
    tied: bool
    """Whether the head is the embedding."""
    bos: Any
    eos: Any
    """Ids of the tokens that begin and end a document: a number, several, or none."""
    notes: list[str]


def describe(folder: Path, context_tokens: int | None = None) -> Described:
    """Reads config.json. `context_tokens` is for folders that do not say, and goes before what they say.

    Raises CheckpointError that lists every setting which our model cannot express.
    """
    path = folder / CONFIG
    raw = _read(path)
    target = _target(path, raw)
    settings = _resolve(path, target)
    model, problems = _model(path, target, settings)
    problems = target.objections(settings, model) + problems
    if settings.get("quantization_config"):
        problems.append("quantization_config: weights that are not quantised only")
    context = context_tokens or settings.get("max_position_embeddings")
    if not isinstance(context, int) or context < 1:
        stated = "not stated" if context is None else f"{context!r} is not a length"
        problems.append(f"max_position_embeddings: {stated}; give the trained context as --context-tokens")
    if problems or model is None:
        listed = "\n    ".join(problems)
        raise CheckpointError(
            f"{path}: this {target.model_class} cannot be imported:\n    {listed}",
            remedy="use a model without these, or give what is missing",
        )
    assert isinstance(context, int)
    return Described(
        target=target,
        model=model,
        vocab_size=settings["vocab_size"],
        context_tokens=context,
        tied=bool(settings.get("tie_word_embeddings")),
        bos=settings.get("bos_token_id"),
        eos=settings.get("eos_token_id"),
        notes=target.remarks(settings),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
        if not isinstance(raw, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}", remedy="give a folder that `save_pretrained` wrote, or fetch it again"
        ) from error
    return raw


def _target(path: Path, raw: dict[str, Any]) -> Target:
    """The class that a config.json names; by its model type where it names none."""
    classes = raw.get("architectures") or []
    for target in TARGETS:
        if target.model_class in classes or (not classes and target.model_type == raw.get("model_type")):
            return target
    named = ", ".join(map(str, classes)) or f"model type {raw.get('model_type')!r}"
    raise CheckpointError(
        f"{path} describes {named}, which cannot be imported",
        remedy=f"these can be: {', '.join(target.model_class for target in TARGETS)}",
    )


def _resolve(path: Path, target: Target) -> dict[str, Any]:
    """All settings under their present names, defaults filled in."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # What it warns of is listed by us, or does not concern us.
    try:
        return CONFIG_MAPPING[target.model_type].from_json_file(path).to_dict()
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: transformers takes it for no {target.model_class}: {error}",
            remedy="correct the settings that are named, or fetch the file again",
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _model(path: Path, target: Target, settings: dict[str, Any]) -> tuple[ModelConfig | None, list[str]]:
    """Our model, or None and why there is none."""
    try:
        return ModelConfig.model_validate(target.values(settings)), []
    except ValidationError as error:
        return None, [_line(found) for found in error.errors()]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} lacks a setting of {target.model_class}, or it makes no sense: {type(error).__name__}: {error}",
            remedy="fetch the file again",
        ) from error


def _line(found: Any) -> str:
    """One line on one value that our model does not take; under our name of the option."""
    place = ".".join(map(str, found["loc"]))
    message = found["msg"].removeprefix("Value error, ")
    given = "" if isinstance(found["input"], dict) else f", not {found['input']!r}"
    return f"{place}: {message}{given}" if place else message
