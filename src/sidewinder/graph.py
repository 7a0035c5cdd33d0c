"""What a study consists of and where each piece lies: the names that rules, commands, catalog and report share.

Every folder is named for people and ends in the first digits of a fingerprint of all configuration that shapes its
content, upstream included. So a changed setting makes new folders for what it affects and nothing else, and the old
results stay where they were.

    results/corpus/english-1f3a5b7c/train-00000/    text.jsonl.zst  heldout.jsonl.zst  keys.npy
                                    heldout-00000.jsonl.zst  duplicates/
    results/tokenizer/bpe-2048-9d2e4f60/        tokenizer.model
    results/tokens/english-5c7d9e01/train-00000/    tokens.bin  tokens.idx
    results/tokens/blend-77aa88bb/              blend.json
    results/runs/hybrid-s1-3f9a2c1b/pretrain-256/   checkpoint/  metrics.jsonl  state/
                                   /extend-1024-0b1c2d3e/
                                        …/eval/phonebook-12ab34cd/   scores.json  samples.parquet
                                        …/export/                    config.json  model.safetensors  tokenizer…

Each of these folders holds a record.json, written last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from sidewinder.config.model import ModelConfig, Rope
from sidewinder.config.readers import PackagesReader
from sidewinder.config.study import Study, lookup_name
from sidewinder.config.training import WITHOUT_EFFECT, Extension, Training
from sidewinder.errors import ConfigError
from sidewinder.record import RECORD, digest

Thing = TypeVar("Thing")
HELDOUT = "heldout-00000"  # The shard of a source's held-out documents.
FORMAT = 2  # Raised when the meaning of a stage's output changes, so that old results are not taken for new ones.


def fingerprint(*parts: Any) -> str:
    """Eight hexadecimal digits that name a configuration."""
    return digest([FORMAT, *parts])[:8]


@dataclass(frozen=True)
class Stage:
    """One stage of one run: pretraining, or an extension of it."""

    run: str
    name: str
    folder: Path
    kind: str  # pretrain or extend
    model_name: str
    model: ModelConfig
    training: Training
    seed: int
    blend: Path
    parent: Stage | None = None

    @property
    def record(self) -> Path:
        """Written last: the stage is done once it is there."""
        return self.folder / RECORD

    @property
    def title(self) -> str:
        """What people call it: `hybrid-s1 extend-1024`."""
        return f"{self.model_name}-s{self.seed} {self.kind}-{self.training.context_tokens}"

    def resolved(self) -> dict[str, Any]:
        """The configuration that shapes its result."""
        return {
            "model_name": self.model_name,
            "model": self.model.model_dump(),
            "training": self.training.model_dump(exclude=WITHOUT_EFFECT),
            "seed": self.seed,
            "kind": self.kind,
        }


class Graph:
    """Names and places of everything in a study."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.results = Path(study.results)
        self.catalog = self.results / "study.duckdb"
        self.report = self.results / "report.html"
        self.resolved = self.results / "study.json"

    # Corpus, tokenizer, tokens

    @cached_property
    def source_configs(self) -> dict[str, dict[str, Any]]:
        """Resolved configuration of every source that a stage reads."""
        study = self.study
        configs: dict[str, dict[str, Any]] = {}
        for name in [*study.weights, *(name for name in study.lookups if name not in study.weights)]:
            if name in study.lookups:
                configs[name] = {"lookup": study.lookups[name].model_dump(exclude={"share"})}
            else:
                configs[name] = {
                    "source": study.sources[name].model_dump(),
                    "heldout_share": study.heldout_share,
                    "decontaminate": study.decontaminate.model_dump() if study.decontaminate else None,
                }
        return configs

    def corpus(self, source: str) -> Path:
        """Folder of a source: its shards below it, and what was found among all of them."""
        return self._corpora[source]

    @cached_property
    def _corpora(self) -> dict[str, Path]:
        return {
            source: self.results / "corpus" / f"{source}-{fingerprint(config)}"
            for source, config in self.source_configs.items()
        }

    def corpus_shards(self, source: str) -> list[str]:
        """Training shards of a source: parts that are read, cleaned and tokenized by jobs of their own."""
        count = (self.study.lookups.get(source) or self.study.sources[source]).shards
        return [f"train-{shard:05d}" for shard in range(count)]

    def shards(self, source: str) -> list[str]:
        """All tokenized shards of a source: for training, and the one of held-out documents."""
        return [*self.corpus_shards(source), HELDOUT]

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """What a tokenizer is made from: its settings, and the text it is trained on."""
        return {
            "tokenizer": self.study.tokenizer.identity,
            "weights": self.study.weights,
            "sources": {source: self.source_configs[source] for source in self.study.weights},
        }

    @cached_property
    def tokenizer(self) -> Path:
        """Folder of the study's tokenizer."""
        name = f"bpe-{self.study.tokenizer.vocab_size}-{fingerprint(self.tokenizer_config)}"
        return self.results / "tokenizer" / name

    def tokens(self, source: str, shard: str) -> Path:
        """Folder of a tokenized shard."""
        return self._tokenized[source] / shard

    @cached_property
    def _tokenized(self) -> dict[str, Path]:
        return {
            source: self.results / "tokens" / f"{source}-{fingerprint(self.tokenizer_config, config)}"
            for source, config in self.source_configs.items()
        }

    @cached_property
    def blend(self) -> Path:
        """Folder of blend.json: shards and weights that pretraining reads, and extensions but for those below."""
        return self.results / "tokens" / f"blend-{fingerprint(self.tokenizer_config)}"

    @cached_property
    def blends(self) -> dict[Path, dict[str, float]]:
        """Every blend.json's folder, and the weights of its sources."""
        own = [extension for extension in self.study.extensions if extension.lookup]
        return {self.blend: self.study.weights} | {
            self._blend_of(extension): self.study.weights_of(extension) for extension in own
        }

    def _blend_of(self, extension: Extension) -> Path:
        if not extension.lookup:
            return self.blend
        name, config = lookup_name(extension), extension.lookup.model_dump()
        return self.results / "tokens" / f"blend-{name}-{fingerprint(self.tokenizer_config, config)}"

    # Runs

    @cached_property
    def stages(self) -> list[Stage]:
        """Every training stage of the study, parents before children."""
        stages: list[Stage] = []
        for seed in self.study.seeds:
            for name in self.study.models:
                pretrain = self._pretrain(name, seed)
                stages.append(pretrain)
                stages.extend(self._extensions(pretrain))
        return stages

    def _pretrain(self, name: str, seed: int) -> Stage:
        model, training = self.study.models[name].architecture(), self.study.training_of(name)
        own = Stage("", "", Path(), "pretrain", name, model, training, seed, self.blend)
        run = f"{name}-s{seed}-{fingerprint(self.tokenizer_config, own.resolved())}"
        stage = f"pretrain-{training.context_tokens}"
        folder = self.results / "runs" / run / stage
        return Stage(run, stage, folder, "pretrain", name, model, training, seed, self.blend)

    def _extensions(self, parent: Stage) -> list[Stage]:
        stages = []
        for extension in self.study.extensions:
            if parent.model_name not in extension.models:
                continue
            training = self.study.extension_of(parent.model_name, extension)
            model = _with_rope_base(parent.model, extension.rope_base)
            about = ("extend", parent.model_name, model, training, parent.seed, self._blend_of(extension), parent)
            own = [extension.lookup.model_dump()] if extension.lookup else []
            mark = fingerprint(Stage("", "", Path(), *about).resolved(), *own)
            name = f"extend-{training.context_tokens}-{mark}"
            stages.append(Stage(parent.run, name, parent.folder.parent / name, *about))
        return stages

    # What the workflow asks of a folder: the files that a job there reads

    def files_of(self, folder: Path) -> list[str]:
        """Local files that the corpus job at a folder reads; none for installed packages and look-ups."""
        from sidewinder.corpus.pieces import divide
        from sidewinder.corpus.storage import is_remote

        source, shard = self.corpus_at(folder)
        if source in self.study.lookups:
            return []
        config = self.study.sources[source]
        if isinstance(config.reader, PackagesReader) or is_remote(config.reader.path):
            return []
        pieces = divide(config.reader, config.shards)[int(shard.removeprefix("train-"))]
        return [piece.path for piece in pieces]

    def corpus_records(self, folder: Path) -> list[Path]:
        """Records of all shards of the source at a folder."""
        return [folder / shard / RECORD for shard in self.corpus_shards(self.source_at(folder))]

    def processes_of(self, folder: Path) -> int:
        """Processes that train the stage at a folder."""
        return self.stage_at(folder).training.mesh.processes

    def threads_of(self, folder: Path) -> int:
        """CPU threads that training takes on one machine, all processes together."""
        return self.processes_of(folder) * self.stage_at(folder).training.threads

    def text_beside(self, folder: Path) -> list[Path]:
        """Record of the text that is tokenized at a folder, where the tokenizer was not trained on it."""
        source, _ = self.shard_at(folder)
        return [] if source in self.study.weights else [self.corpus(source) / RECORD]

    def tokens_of(self, folder: Path) -> list[Path]:
        """Records of all tokens that the blend at a folder lists."""
        sources = self.weights_at(folder)
        return [self.tokens(source, shard) / RECORD for source in sources for shard in self.shards(source)]

    def blend_of(self, folder: Path) -> Path:
        """Record of the blend that the stage at a folder reads."""
        return self.stage_at(folder).blend / RECORD

    def parent_of(self, folder: Path) -> Path:
        """Record of the pretraining that the extension at a folder starts from."""
        parent = self.stage_at(folder).parent
        assert parent
        return parent.record

    # From a folder back to what it is for

    def source_at(self, folder: Path) -> str:
        """Source of a corpus folder."""
        return _find(folder, self._sources)

    def corpus_at(self, folder: Path) -> tuple[str, str]:
        """(source, shard) of a shard's corpus folder."""
        return _find(folder, self._corpus_shards)

    def shard_at(self, folder: Path) -> tuple[str, str]:
        """(source, shard) of a tokens folder."""
        return _find(folder, self._shards)

    def weights_at(self, folder: Path) -> dict[str, float]:
        """Weights of the sources of the blend at a folder."""
        return _find(folder, self.blends)

    def stage_at(self, folder: Path) -> Stage:
        """Stage of a run's folder."""
        return _find(folder, self._stages)

    def evaluation_at(self, folder: Path) -> tuple[Stage, str]:
        """(stage, suite) of an evaluation folder."""
        return _find(folder, self._evaluations)

    def export_at(self, folder: Path) -> Stage:
        """Stage of an export folder."""
        return _find(folder, {self.export(stage): stage for stage in self.stages})

    @cached_property
    def _sources(self) -> dict[Path, str]:
        return {self.corpus(source): source for source in self.source_configs}

    @cached_property
    def _corpus_shards(self) -> dict[Path, tuple[str, str]]:
        return {
            self.corpus(source) / shard: (source, shard)
            for source in self.source_configs
            for shard in self.corpus_shards(source)
        }

    @cached_property
    def _shards(self) -> dict[Path, tuple[str, str]]:
        return {
            self.tokens(source, shard): (source, shard)
            for source in self.source_configs
            for shard in self.shards(source)
        }

    @cached_property
    def _stages(self) -> dict[Path, Stage]:
        return {stage.folder: stage for stage in self.stages}

    @cached_property
    def _evaluations(self) -> dict[Path, tuple[Stage, str]]:
        return {self.evaluation(stage, suite): (stage, suite) for stage in self.stages for suite in self.study.evaluate}

    # What is made of a checkpoint

    def evaluation(self, stage: Stage, suite: str) -> Path:
        """Folder of a suite on the checkpoint of a stage."""
        mark = fingerprint(self.study.suites[suite].identity)
        return stage.folder / "eval" / f"{suite}-{mark}"

    @property
    def data_manifest(self) -> list[Path]:
        """What tells which data sets of evaluation tasks are at hand, where there is a folder of them."""
        path = Path(self.study.data or "") / "manifest.json"
        return [path] if self.study.data and path.is_file() else []

    def export(self, stage: Stage) -> Path:
        """Folder of the exported checkpoint of a stage."""
        return stage.folder / "export"

    def card(self, stage: Stage) -> Path:
        """The model card of an export. It holds scores, so it is made after the catalog, not by the export job."""
        return self.export(stage) / "README.md"

    @property
    def cards(self) -> list[Path]:
        """Model cards of all exports."""
        return [self.card(stage) for stage in self.stages] if self.study.export else []

    @property
    def records(self) -> list[Path]:
        """Records of everything that the study asks for; the catalog is built from them."""
        folders = list(self._corpus_shards)
        folders += [self.corpus(source) for source in self.source_configs]
        folders += [self.tokenizer, *self.blends]
        folders += [self.tokens(source, shard) for source in self.source_configs for shard in self.shards(source)]
        for stage in self.stages:
            folders.append(stage.folder)
            folders += [self.evaluation(stage, suite) for suite in self.study.evaluate]
            folders += [self.export(stage)] if self.study.export else []
        return [folder / RECORD for folder in folders]


def _find(folder: Path, places: dict[Path, Thing]) -> Thing:
    """What a folder is for. Raises ConfigError, with the known folders, where the study has nothing there."""
    if folder not in places:
        known = "\n    ".join(str(place) for place in places)
        raise ConfigError(f"the study has nothing of this kind at {folder}", remedy=f"use one of:\n    {known}")
    return places[folder]


def _with_rope_base(model: ModelConfig, base: float | None) -> ModelConfig:
    """The model with another RoPE base; models without RoPE are returned as they are."""
    if base is None or model.attention.rope is None:
        return model
    rope = Rope(base=base, fraction=model.attention.rope.fraction)
    return model.model_copy(update={"attention": model.attention.model_copy(update={"rope": rope})})
