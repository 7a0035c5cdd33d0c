"""A real tokenizer, trained as the study's is on Python's own sources, and small models with random weights."""

from __future__ import annotations

import ast
import json
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor

from sidewinder.config.load import parse_study
from sidewinder.config.model import ModelConfig
from sidewinder.evaluate.heldout import Heldout
from sidewinder.evaluate.subject import Subject
from sidewinder.graph import Graph, Stage
from sidewinder.model import LanguageModel, init_weights
from sidewinder.model.checkpoint import save_model
from sidewinder.record import Job
from sidewinder.tokenizer.train import train_pieces, train_tokenizer
from sidewinder.tokens.indexed import IndexedWriter

if TYPE_CHECKING:
    from .ruler_sets import Large

STDLIB = Path(sysconfig.get_path("stdlib"))
MAMBA2 = {"state_size": 8, "head_size": 16, "groups": 2, "chunk": 16}
ATTENTION = {"heads": 4, "kv_heads": 2, "head_size": 8}
CONFIGS = {
    "transformer": {
        "pattern": "*-*-",
        "norm": "layernorm",
        "attention": ATTENTION | {"rope": {"fraction": 0.5}},
        "mlp": {"size": 64, "activation": "relu2"},
    },
    "mamba": {"pattern": "mmm", "mamba1": {"state_size": 8}},
    "mamba2": {"pattern": "MMM", "mamba2": MAMBA2},
    "hybrid": {"pattern": "M-M*-M-", "attention": ATTENTION, "mlp": {"size": 64}, "mamba2": MAMBA2},
}
CONTEXT_TOKENS = 96
TRAINING = {
    "context_tokens": CONTEXT_TOKENS,
    "batch_sequences": 1,
    "budget_tokens": 960,
    "learning_rate": 1e-3,
    "minimum_learning_rate": 1e-4,
    "device": "cpu",
}
SUITES = {
    "heldout": {"kind": "bits_per_byte", "tokens_per_source": 500},
    "phonebook": {"kind": "phonebook", "lengths_tokens": [64, 128], "books": 3},
    "needle": {"kind": "needle", "lengths_tokens": [64, 384, 9999], "samples": 3},
    "cloze": {"kind": "harness", "tasks": ["sidewinder_cloze"], "samples": 12},
    "cloze_block": {"kind": "harness", "tasks": [{"task": "sidewinder_cloze", "shots": [0]}], "samples": 3},
}
torch.set_num_threads(1)


def random_model(name: str, vocab_size: int, **other: Any) -> LanguageModel:
    """A model whose every parameter is random and whose predictions are far from uniform."""
    model = LanguageModel(ModelConfig.model_validate(CONFIGS[name] | {"hidden_size": 32} | other), vocab_size)
    init_weights(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            scale = 0.5 if key.startswith(("embedding", "head")) else 0.1
            parameter += scale * torch.empty(parameter.shape).normal_(generator=generator)
    return model


class ReadSoFar:
    """A cache for Predictor: simply the tokens."""

    layers = (None,)

    def __init__(self, tokens_BL: torch.Tensor) -> None:
        self.tokens_BL = tokens_BL

    def select(self, rows: torch.Tensor) -> ReadSoFar:
        return ReadSoFar(self.tokens_BL[rows])

    def nbytes(self) -> int:
        return 8 * self.tokens_BL.numel()


class Predictor(torch.nn.Module):
    """Stands where a model does and predicts the tokens that a function gives, with certainty; None for uniformly."""

    config = SimpleNamespace(hidden_size=1)

    def __init__(self, vocab_size: int, following: Callable[[list[int]], list[int]] | None) -> None:
        super().__init__()
        self.vocab_size, self.following = vocab_size, following
        self.device_holder = torch.nn.Parameter(torch.zeros(1))

    def new_cache(self, batch: int) -> ReadSoFar:
        return ReadSoFar(torch.zeros(batch, 0, dtype=torch.long))

    def hidden(self, tokens_BL: torch.Tensor, cache: ReadSoFar | None = None) -> torch.Tensor:
        if cache is not None:
            before = cache.tokens_BL.shape[1]
            cache.tokens_BL = torch.cat([cache.tokens_BL, tokens_BL], dim=1)
            return self.hidden(cache.tokens_BL)[:, before:]
        if self.following is None:
            return torch.zeros(*tokens_BL.shape, self.vocab_size)
        predicted_BL = torch.tensor([self.following(tokens) for tokens in tokens_BL.tolist()])
        return 30.0 * torch.nn.functional.one_hot(predicted_BL, self.vocab_size).float()

    def logits(self, hidden_BLV: torch.Tensor) -> torch.Tensor:
        return hidden_BLV


@pytest.fixture
def predictor() -> type[Predictor]:
    return Predictor


def knows(sequences: list[list[int]], told: list[list[int]] | None = None) -> Callable[[list[int]], list[int]]:
    """A function for Predictor that continues any beginning of these sequences as they go on, or as `told` goes on."""

    def following(tokens: list[int]) -> list[int]:
        length = max(place for place, token in enumerate(tokens) if token) + 1  # Token 0 is padding.
        at = next(at for at, sequence in enumerate(sequences) if sequence[:length] == tokens[:length])
        return ((told or sequences)[at][1:] + [0] * len(tokens))[: len(tokens)]

    return following


@pytest.fixture
def oracle() -> Callable[..., Callable[[list[int]], list[int]]]:
    return knows


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Docstrings and sources of Python's own modules."""
    names = (
        "argparse",
        "ast",
        "bisect",
        "codecs",
        "decimal",
        "doctest",
        "heapq",
        "logging/__init__",
        "pathlib",
        "statistics",
    )
    sources = [(STDLIB / f"{name}.py").read_text() for name in names]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    return [text for node in nodes if (text := ast.get_docstring(node)) and len(text) > 200] + sources


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> SentencePieceProcessor:
    """Trained with the options of the study's tokenizer (tokenizer/train.py)."""
    lines = (line for text in texts for line in text.split("\n"))
    return SentencePieceProcessor(model_proto=train_pieces(lines, 600, 0.99))


@pytest.fixture(scope="session")
def heldout(texts: list[str], tokenizer: SentencePieceProcessor, tmp_path_factory: pytest.TempPathFactory) -> Heldout:
    """Two sources of text and one of look-up documents, as the blend lists them."""
    folder = tmp_path_factory.mktemp("blend")
    documents = {
        "prose": texts[:60],
        "code": texts[-3:],
        "lookup": ["Ann: 12\nBob: 34\n\nBob: 34\n", "Cy: 56\n\nCy: 56\n"],
    }
    sources = {}
    for name, chosen in documents.items():
        with IndexedWriter(folder / name, np.uint16) as writer:
            for text in chosen:
                writer.add(tokenizer.encode(text, add_eos=True))
        sources[name] = {"weight": 1 / 3, "heldout": [{"prefix": str(folder / name), "documents": len(chosen)}]}
    (folder / "blend.json").write_text(json.dumps({"sources": sources}))
    (folder / "tokenizer.model").write_bytes(tokenizer.serialized_model_proto())
    return Heldout(
        blend=folder / "blend.json",
        tokenizer_file=folder / "tokenizer.model",
        shares={"prose": 0.75, "code": 0.25},
        languages={"prose": "en", "code": "python"},
    )


@pytest.fixture(params=sorted(CONFIGS))
def subject(request: pytest.FixtureRequest, tokenizer: SentencePieceProcessor) -> Subject:
    """Each architecture in turn."""
    model = random_model(request.param, tokenizer.get_piece_size())
    return Subject(request.param, model, CONTEXT_TOKENS, tokenizer)


@pytest.fixture
def hybrid(tokenizer: SentencePieceProcessor) -> Subject:
    return Subject("hybrid", random_model("hybrid", tokenizer.get_piece_size()), CONTEXT_TOKENS, tokenizer)


@pytest.fixture(scope="session")
def graph(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A small study whose text, tokenizer and tokens were made by the real stages, and whose models are random."""
    from sidewinder.corpus.build import (
        build_source,
    )  # Here, so that tests on a GPU need no libraries for cleaning text.
    from sidewinder.tokens.blend import write_blend
    from sidewinder.tokens.encode import encode_shard

    root = tmp_path_factory.mktemp("study")
    for place, text in enumerate(texts):
        kind = root / ("code" if "\ndef " in text else "prose")
        kind.mkdir(exist_ok=True)
        (kind / f"{place}.txt").write_text(text)
    sources = {
        name: {"language": language, "reader": {"kind": "text", "path": str(root / name)}}
        for name, language in (("prose", "en"), ("code", "python"))
    }
    models = {name: config | {"hidden_size": 32} for name, config in CONFIGS.items()}
    study = {
        "study": "tiny",
        "results": str(root / "results"),
        "sources": sources,
        "blend": {"prose": 0.7, "code": 0.3},
        "heldout_share": 0.3,
        "lookup": {"share": 0.2, "documents": 60, "digits": 3},
        "tokenizer": {"vocab_size": 600, "sample_bytes": 200_000, "character_coverage": 0.98},
        "models": models,
        "training": TRAINING,
        "suites": SUITES,
        "evaluate": list(SUITES),
    }
    made = Graph(parse_study(study))
    for source in made.source_configs:
        build_source(made, source)
    train_tokenizer(made)
    for source in made.source_configs:
        for shard in made.shards(source):
            encode_shard(made, source, shard)
    write_blend(made, made.blend)
    for stage in made.stages:
        make_checkpoint(stage)
    return made


def make_checkpoint(stage: Stage) -> None:
    """What a training stage leaves, with random weights."""
    name = f"{stage.model_name}-s{stage.seed}/{stage.kind}-{stage.training.context_tokens}"
    with Job(stage.folder, stage.kind, name, stage.resolved(), []) as job:
        model = random_model(stage.model_name, 600)
        weights, description = save_model(model, stage.folder / "checkpoint", context_tokens=CONTEXT_TOKENS)
        job.output("checkpoint", weights)
        job.output("model_config", description)
        job.facts = {"parameters": sum(parameter.numel() for parameter in model.parameters()), "final_loss": 6.5}


@pytest.fixture(scope="session")
def ruler_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with what RULER's tasks read."""
    from .ruler_sets import write_ruler

    return write_ruler(tmp_path_factory.mktemp("ruler"))


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Large:
    from .ruler_sets import Large  # Here, so that tests on a GPU need no fast tokenizer.

    return Large(tmp_path_factory.mktemp("large"))
