"""What the training tests share: a tiny study with a tokenized blend, and a disk with a real limit."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidewinder.config.load import parse_study
from sidewinder.graph import Graph, Stage
from sidewinder.model import LanguageModel, init_weights
from sidewinder.record import Job, file_digest
from sidewinder.tokens.indexed import IndexedWriter
from sidewinder.tokens.loader import BlendLoader
from sidewinder.train.job import data_seed
from sidewinder.train.loop import Trainer

VOCABULARY, EOS = 300, 2
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "attention": {"heads": 2, "kv_heads": 1, "head_size": 8},
    "mlp": {"size": 32},
    "mamba1": {"state_size": 4},
    "mamba2": {"state_size": 8, "head_size": 8, "groups": 1, "chunk": 16},
}
MODELS = {
    "transformer": SMALL | {"pattern": "*-*-", "attention": SMALL["attention"] | {"rope": {}}},
    "mamba": SMALL | {"pattern": "mm"},
    "mamba2": SMALL | {"pattern": "MM"},
    "hybrid": SMALL | {"pattern": "M-*-"},
}
WIDE: dict[str, Any] = {
    "hidden_size": 64,
    "mamba1": {"state_size": 16},
    "mamba2": {"state_size": 32, "head_size": 32, "groups": 2, "chunk": 32},
}
TRAINING: dict[str, Any] = {
    "context_tokens": 32,
    "batch_sequences": 4,
    "budget_tokens": 12 * 4 * 32,
    "learning_rate": 1e-2,
    "minimum_learning_rate": 1e-3,
    "warmup_sequences": 8,
    "save_every_tokens": 2 * 4 * 32,
}
EXTENSION: dict[str, Any] = {
    "context_tokens": 64,
    "models": ["transformer", "hybrid"],
    "budget_tokens": 4 * 4 * 64,
    "batch_sequences": 4,
    "learning_rate": 5e-3,
    "minimum_learning_rate": 5e-4,
    "rope_base": 40_000,
}


def study_values(folder: Path, wide: bool = False, **training: Any) -> dict[str, Any]:
    """A study of four models of two to four layers; `training` changes its training settings.

    Where `wide`, they are large enough for every kernel of a GPU.
    """
    return {
        "study": "tiny",
        "results": str(folder / "results"),
        "sources": {"text": {"reader": {"kind": "text", "path": str(folder)}}},
        "blend": {"text": 1.0},
        "repeat_at_most": 1000,
        "tokenizer": {"vocab_size": VOCABULARY, "sample_bytes": 16 * VOCABULARY},
        "models": {name: model | WIDE for name, model in MODELS.items()} if wide else MODELS,
        "training": TRAINING | training,
        "extensions": [EXTENSION],
    }


def write_blend(graph: Graph, seed: int = 0) -> None:
    """Tokenizes made-up text: documents of a skewed, learnable distribution, and the blend's job record."""
    generator = np.random.default_rng(seed)
    prefix = graph.tokens("text", "train-00000") / "tokens"
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with IndexedWriter(prefix, np.uint16) as writer:
        for _ in range(40):
            words = np.minimum(3 + generator.geometric(0.05, size=generator.integers(20, 200)), VOCABULARY - 1)
            writer.add(np.append(words, EOS).astype(np.uint16))
    shard = {"prefix": str(prefix), "sha256_bin": file_digest(prefix.with_suffix(".bin"))}
    shard |= {"tokens": os.path.getsize(prefix.with_suffix(".bin")) // 2, "documents": 40}
    with Job(graph.blend, "tokens", "blend", {"seed": seed}, []) as job:
        blend = {"vocab_size": VOCABULARY, "eos": EOS, "dtype": "uint16", "tokenizer": {"path": "", "sha256": ""}}
        blend["sources"] = {"text": {"weight": 1.0, "shards": [shard], "heldout": []}}
        (graph.blend / "blend.json").write_text(json.dumps(blend))
        job.output("blend", graph.blend / "blend.json")


@pytest.fixture
def make_graph(tmp_path: Path) -> Callable[..., Graph]:
    """`make_graph(folder=…, **training)`: a study's graph whose blend is tokenized."""

    def make(folder: Path = tmp_path, **training: Any) -> Graph:
        graph = Graph(parse_study(study_values(folder, **training)))
        write_blend(graph)
        return graph

    return make


@pytest.fixture
def stage_of() -> Callable[..., Stage]:
    """`stage_of(graph, model, kind="pretrain")`."""

    def find(graph: Graph, model: str, kind: str = "pretrain") -> Stage:
        return next(stage for stage in graph.stages if (stage.model_name, stage.kind) == (model, kind))

    return find


class Interrupted(BlendLoader):
    """A loader that sends SIGTERM to its own process when the data of one step is asked for."""

    at_sequence: int | None = None

    def sequences(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        if first == self.at_sequence:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().sequences(first, count)


@pytest.fixture
def make_trainer() -> Callable[..., Trainer]:
    """`make_trainer(graph, stage, folder, stop_at=None)`: a trainer on the stage's data; `stop_at` is a step."""

    def make(graph: Graph, stage: Stage, folder: Path, stop_at: int | None = None) -> Trainer:
        training = stage.training
        loader = Interrupted(
            graph.blend / "blend.json",
            context_tokens=training.context_tokens,
            seed=data_seed(stage),
            total_sequences=training.sequences,
        )
        loader.at_sequence = None if stop_at is None else (stop_at - 1) * training.batch_sequences
        model = LanguageModel(stage.model, VOCABULARY)
        init_weights(model, stage.seed)
        return Trainer(stage.title, folder, "a" * 64, model, loader, training)

    return make


class SmallDisk:
    """A folder on a disk that can be made full: a tmpfs, or else a limit on the size of each new file."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        folder.mkdir()
        self.folder, self._size = folder, size_bytes
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        self._mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
        if not self._mounted and os.environ.get("CI") == "true":
            pytest.fail("cannot mount a tmpfs: the test of a full disk needs root in CI")
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, leave_bytes: int) -> None:
        """Leaves so much room."""
        if not self._mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (leave_bytes, self._limits[1]))
            return
        room = os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize
        (self.folder / "filler").write_bytes(b"\0" * (room - leave_bytes))

    def clear(self) -> None:
        """Makes room again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        self.clear()
        if self._mounted:
            subprocess.run(["umount", "--lazy", self.folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk", 2**22)
    yield disk
    disk.close()
