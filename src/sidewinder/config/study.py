"""The study: one config.yaml. Everything below hangs off it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from sidewinder.config.base import Name, Share, Strict
from sidewinder.config.cluster import Cluster
from sidewinder.config.corpus import Lookup, Source
from sidewinder.config.filters import Decontaminate
from sidewinder.config.mesh import misfits
from sidewinder.config.model import ModelConfig
from sidewinder.config.suites import Suite
from sidewinder.config.tokenizer import Tokenizer
from sidewinder.config.training import Extension, Training, TrainingOverride

LOOKUP = "lookup"


class StudyModel(ModelConfig):
    """A model of the study, with its own training settings where they differ."""

    training: TrainingOverride = TrainingOverride()

    def architecture(self) -> ModelConfig:
        """The model alone, its pattern written out: what a checkpoint is made of."""
        values = self.model_dump(exclude={"training", "allocation"}) | {"pattern": self.layers}
        return ModelConfig.model_validate(values)


class Study(Strict):
    """A controlled comparison: one corpus, tokenizer, budget, ladder and evaluation for several models."""

    study: Name
    """Its name, shown in the report."""
    results: str = "results"
    """Folder that everything is written to."""
    data: str | None = None
    """Folder with the data sets of evaluation tasks (`sidewinder datasets fetch` fills it); null asks the hub."""
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    blend: Annotated[dict[Name, Share], Field(min_length=1)]
    """Share of each source in the training text; they sum to 1."""
    repeat_at_most: Annotated[float, Field(gt=0)] = 4.0
    """Most epochs of a source in a stage; one that would read a source more often is refused. From about four on,
    repeated text is worth less than new text (arXiv 2305.16264)."""
    heldout_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Share of documents, chosen by hash of their text, that never reach training."""
    decontaminate: Decontaminate | None = None
    """Drop documents that overlap with texts of the evaluation."""
    lookup: Lookup = Lookup()
    tokenizer: Tokenizer = Tokenizer()
    models: Annotated[dict[Name, StudyModel], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(default=[1])
    training: Training
    extensions: list[Extension] = Field(default_factory=list)
    suites: dict[Name, Suite] = Field(default_factory=dict)
    evaluate: list[Name] = Field(default_factory=list)
    """Suites to run on every checkpoint."""
    export: bool = True
    """Write every final checkpoint in Hugging Face format."""
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name in self.sources:
            if name == LOOKUP or name.startswith(f"{LOOKUP}_"):
                raise ValueError(f"sources.{name}: names like this are taken by the synthetic look-up documents")
        for name in self.blend:
            known(name, self.sources, f"blend.{name}", "source")
        for name in self.evaluate:
            known(name, self.suites, "evaluate", "suite")
        own: dict[str, Lookup | None] = {}
        for place, extension in enumerate(self.extensions):
            if extension in self.extensions[:place]:
                raise ValueError(f"extensions.{place}: is the same as an earlier one; use each once")
            for name in extension.models:
                known(name, self.models, f"extensions.{place}.models", "model")
            if extension.lookup != own.setdefault(lookup_name(extension), extension.lookup):
                raise ValueError(
                    f"extensions.{place}.lookup: another extension to {extension.context_tokens} tokens has other "
                    "look-up documents; give both the same"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: each seed once, got {self.seeds}")
        return self

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        total = math.fsum(self.blend.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"blend: the shares must sum to 1, got {total:g}; change one by {1 - total:+g}")
        contexts = [("training", self.training.context_tokens, set(self.models))]
        for place, extension in enumerate(self.extensions):
            contexts.append((f"extensions.{place}", extension.context_tokens, set(extension.models)))
        for place, extension in enumerate(self.extensions):
            if extension.context_tokens <= self.training.context_tokens:
                raise ValueError(
                    f"extensions.{place}.context_tokens: does not exceed the {self.training.context_tokens} tokens of "
                    "`training`; use more"
                )
        for key, tokens, names in contexts:
            for name in sorted(names):
                model = self.models[name]
                if "M" in model.layers and tokens % model.mamba2.chunk:
                    raise ValueError(
                        f"{key}.context_tokens: {tokens} is not a multiple of models.{name}.mamba2.chunk "
                        f"({model.mamba2.chunk}); use {_near_multiples(model.mamba2.chunk, tokens)}"
                    )
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        told: dict[str, list[str]] = {}
        """Models by what is wrong with their stage, in order of appearance."""
        for name in self.models:
            for key, mistake in self._mistakes(name):
                told.setdefault(f"{key}: {mistake}", []).append(name)
        if told:
            lines = [f"{mistake} (models: {', '.join(sorted(names))})" for mistake, names in told.items()]
            raise ValueError("\n  ".join(lines))
        return self

    def _mistakes(self, name: str) -> Iterator[tuple[str, str]]:
        """Key and mistake of each stage of a model that cannot be: its settings contradict, or do not fit its mesh."""
        own = self.models[name].training
        try:
            training = self.training_of(name)
        except ValidationError as error:
            yield f"models.{name}.training", _message(error)
            return
        mesh_key = f"models.{name}.training.mesh" if own.mesh else "training.mesh"
        pretraining = self._misfits(name, training)
        yield from ((mesh_key, mistake) for mistake in pretraining)
        for place, extension in enumerate(self.extensions):
            if name not in extension.models:
                continue
            key = f"extensions.{place}"
            try:
                training = self.extension_of(name, extension)
            except ValidationError as error:
                yield key, _message(error)
                continue
            told = [] if extension.mesh else pretraining  # Once is enough for a mesh that it inherits.
            key = f"{key}.mesh" if extension.mesh else key
            yield from ((key, mistake) for mistake in self._misfits(name, training) if mistake not in told)

    def _misfits(self, name: str, training: Training) -> list[str]:
        found = [
            mistake
            for size in training.batches.sizes  # More than one where the batch ramps up.
            for mistake in misfits(
                training.mesh,
                self.models[name],
                batch_sequences=size,
                micro=training.micro_batch_sequences,
                context_tokens=training.context_tokens,
            )
        ]
        return list(dict.fromkeys(found))

    def training_of(self, model: str) -> Training:
        """Training settings of a model's pretraining, its own settings over the study's."""
        own = self.models[model].training.model_dump(exclude_none=True)
        return Training.model_validate(self.training.model_dump() | own)

    def extension_of(self, model: str, extension: Extension) -> Training:
        """Training settings of an extension: the pretraining's, but for what the extension states itself."""
        own = extension.model_dump(exclude={"models", "rope_base", "lookup"})
        alone = ("micro_batch_sequences", "batch_ramp")  # Null is a statement here, not an omission.
        own = {key: value for key, value in own.items() if value is not None or key in alone}
        return Training.model_validate(self.training_of(model).model_dump() | own)

    @property
    def weights(self) -> dict[str, float]:
        """Share of every source in the pretraining tokens, look-up documents included."""
        return self._weights(LOOKUP, self.lookup)

    def weights_of(self, extension: Extension) -> dict[str, float]:
        """Share of every source in an extension's tokens."""
        return self._weights(lookup_name(extension), extension.lookup) if extension.lookup else self.weights

    def _weights(self, name: str, lookup: Lookup) -> dict[str, float]:
        text = {source: share * (1 - lookup.share) for source, share in self.blend.items() if share}
        return text | ({name: lookup.share} if lookup.share else {})

    def in_order(self, source: str) -> bool:
        """Whether training reads a source's documents in their order, as a curriculum does."""
        return source in self.lookups and self.lookups[source].grow_share > 0

    @property
    def lookups(self) -> dict[str, Lookup]:
        """The sources of look-up documents by name: the study's, and those that extensions have of their own."""
        own = {lookup_name(extension): extension.lookup for extension in self.extensions if extension.lookup}
        return {name: lookup for name, lookup in ({LOOKUP: self.lookup} | own).items() if lookup.share}


def lookup_name(extension: Extension) -> str:
    """Source of an extension's own look-up documents: `lookup_4096`."""
    return f"{LOOKUP}_{extension.context_tokens}"


def _message(error: ValidationError) -> str:
    """What is wrong with a stage's settings, taken together."""
    return "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())


def _near_multiples(step: int, wanted: int) -> str:
    """The multiples of a number just below and above a wanted one: `224 or 256`."""
    below = wanted // step * step
    return " or ".join(str(multiple) for multiple in (below, below + step) if multiple)


def known(name: str, names: Mapping[str, object], key: str, what: str) -> None:
    """Raises ValueError, with the nearest existing name, where `name` is not one of `names`."""
    if name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.0)
        raise ValueError(
            f"{key}: unknown {what} {name!r}; nearest: {near[0] if near else '-'}; known: {', '.join(names)}"
        )
