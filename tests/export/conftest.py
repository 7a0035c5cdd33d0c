"""A real tokenizer, trained as the study's is on Python's own sources, and small models with random weights."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceProcessor

from sidewinder.config.load import parse_study
from sidewinder.config.model import ModelConfig
from sidewinder.corpus.build import build_source
from sidewinder.graph import Graph, Stage
from sidewinder.model import LanguageModel, init_weights
from sidewinder.model.checkpoint import ModelInfo, save_model
from sidewinder.record import Job
from sidewinder.tokenizer.train import train_pieces, train_tokenizer
from sidewinder.tokens.blend import write_blend
from sidewinder.tokens.encode import encode_shard

torch.set_num_threads(1)
STDLIB = Path(sysconfig.get_path("stdlib"))
MAMBA2 = {"state_size": 8, "head_size": 16, "groups": 2, "chunk": 16}
ATTENTION = {"heads": 4, "kv_heads": 2, "head_size": 8}


def with_rope(fraction: float, base: float = 10_000.0) -> dict[str, Any]:
    return ATTENTION | {"rope": {"fraction": fraction, "base": base}}


# Each class, and the options that it allows.
CONFIGS: dict[str, dict[str, Any]] = {
    "MambaForCausalLM": {"pattern": "mmm", "mamba1": {"state_size": 8}},
    "MambaForCausalLM expand 3, rank 5, width 3": {
        "pattern": "mm",
        "mamba1": {"state_size": 4, "expand": 3, "dt_rank": 5, "conv_width": 3},
    },
    "Mamba2ForCausalLM": {"pattern": "MMM", "mamba2": MAMBA2},
    "Mamba2ForCausalLM one group, chunk 7": {"pattern": "MM", "mamba2": MAMBA2 | {"groups": 1, "chunk": 7}},
    "NemotronHForCausalLM": {"pattern": "M-M*-M-", "attention": ATTENTION, "mlp": {"size": 64}, "mamba2": MAMBA2},
    "NemotronHForCausalLM relu2, starts with attention": {
        "pattern": "*M-",
        "attention": ATTENTION,
        "mlp": {"size": 48, "activation": "relu2"},
        "mamba2": MAMBA2,
    },
    "NemotronHForCausalLM without Mamba": {"pattern": "*-*-", "attention": ATTENTION, "mlp": {"size": 64}},
    "NemotronForCausalLM": {
        "pattern": "*-*-",
        "norm": "layernorm",
        "attention": with_rope(0.5),
        "mlp": {"size": 64, "activation": "relu2"},
    },
    "NemotronForCausalLM gelu, wide heads, base 40000": {
        "pattern": "*-*-",
        "norm": "layernorm",
        "attention": with_rope(1.0, 40_000.0) | {"head_size": 12},
        "mlp": {"size": 64, "activation": "gelu"},
    },
    "LlamaForCausalLM": {
        "pattern": "*-*-",
        "attention": with_rope(1.0),
        "mlp": {"size": 64, "activation": "swiglu"},
    },
    "StableLmForCausalLM": {
        "pattern": "*-*-",
        "norm": "layernorm",
        "attention": with_rope(0.5),
        "mlp": {"size": 64, "activation": "swiglu"},
    },
}
CLASSES = {
    "transformer": "NemotronForCausalLM",
    "mamba": "MambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "hybrid": "NemotronHForCausalLM",
    "misfit": "NemotronHForCausalLM",
}
STUDY_MODELS = {name: CONFIGS[model_class] for name, model_class in CLASSES.items()}
STUDY_MODELS["misfit"] = STUDY_MODELS["hybrid"] | {"pattern": "M-M-"}
CONTEXT_TOKENS = 96
TRAINING = {
    "context_tokens": CONTEXT_TOKENS,
    "batch_sequences": 1,
    "budget_tokens": 960,
    "learning_rate": 1e-3,
    "minimum_learning_rate": 1e-4,
    "device": "cpu",
}


def random_model(config: dict[str, Any], vocab_size: int) -> LanguageModel:
    """A model whose every parameter is random and whose predictions are far from uniform."""
    model = LanguageModel(ModelConfig.model_validate(config | {"hidden_size": 32}), vocab_size)
    init_weights(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            scale = 0.5 if key.startswith(("embedding", "head")) else 0.1
            parameter += scale * torch.empty(parameter.shape).normal_(generator=generator)
    return model


@pytest.fixture(params=sorted(CONFIGS))
def case(request: pytest.FixtureRequest, tokenizer: SentencePieceProcessor) -> tuple[str, LanguageModel, ModelInfo]:
    """Name of the class, a model for it, and its description."""
    model = random_model(CONFIGS[request.param], tokenizer.get_piece_size())
    info = ModelInfo(model.config, model.vocab_size, CONTEXT_TOKENS, {}, {})
    return request.param.split()[0], model, info


@pytest.fixture(scope="session")
def texts() -> list[str]:
    names = ("argparse", "ast", "codecs", "decimal", "doctest", "html/entities", "pathlib", "test/test_unicodedata")
    paths = [STDLIB / f"{name}.py" for name in names]
    return [path.read_text() for path in paths if path.is_file()]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> SentencePieceProcessor:
    """Trained with the options of the study's tokenizer (tokenizer/train.py)."""
    lines = (line for text in texts for line in text.split("\n"))
    return SentencePieceProcessor(model_proto=train_pieces(lines, 1000, 0.99))


@pytest.fixture(scope="session")
def graph(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A small study whose text, tokenizer and tokens were made by the real stages, and whose models are random."""
    root = tmp_path_factory.mktemp("study")
    lines = "".join(texts).splitlines(keepends=True)
    for place, start in enumerate(range(0, len(lines), 100)):
        kind = root / ("code" if place % 2 else "prose")
        kind.mkdir(exist_ok=True)
        (kind / f"{place}.txt").write_text("".join(lines[start : start + 100]))
    sources = {
        name: {"language": language, "reader": {"kind": "text", "path": str(root / name)}}
        for name, language in (("prose", "en"), ("code", "python"))
    }
    models = {name: config | {"hidden_size": 32} for name, config in STUDY_MODELS.items()}
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
        model = random_model(STUDY_MODELS[stage.model_name], 600)
        weights, description = save_model(model, stage.folder / "checkpoint", context_tokens=CONTEXT_TOKENS)
        job.output("checkpoint", weights)
        job.output("model_config", description)
        job.facts = {"parameters": sum(parameter.numel() for parameter in model.parameters()), "final_loss": 6.5}
