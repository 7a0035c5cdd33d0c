"""The adapter on a GPU: shared prefixes and ragged generation give what the CPU gives."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from sentencepiece import SentencePieceProcessor

from sidewinder.evaluate.adapter import SidewinderLM
from sidewinder.evaluate.subject import Subject

from .conftest import CONFIGS, CONTEXT_TOKENS, random_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

WIDTH = {
    "hidden_size": 128,
    "attention": {"heads": 4, "kv_heads": 2, "head_size": 32},
    "mlp": {"size": 256},
    "mamba1": {"state_size": 16},
    "mamba2": {"state_size": 64, "head_size": 32, "groups": 2, "chunk": 64},
}
"""Sizes that kernels are made for."""
NATS, SHARE = 0.05, 2e-3
"""Tolerance of a log-likelihood: kernels take some products in TF32, which keeps ten bits."""


@pytest.fixture(params=sorted(CONFIGS))
def subject(request: pytest.FixtureRequest, tokenizer: SentencePieceProcessor) -> Subject:
    model = random_model(request.param, tokenizer.get_piece_size(), **WIDTH)
    return Subject(request.param, model, CONTEXT_TOKENS, tokenizer)


def requests(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, at) for at, each in enumerate(arguments)]


def test_answers_are_those_of_the_cpu(subject: Subject, texts: list[str]) -> None:
    rng = random.Random(1)
    pairs = []
    for text in texts[:30]:
        context = text[: rng.randrange(60, 200)]
        pairs += [(context, f" {word}") for word in rng.sample(text.split(), 4)]
    settings = {"until": [], "max_gen_toks": 12, "do_sample": False}
    prompts = [(text[: rng.randrange(60, 90)], settings) for text in texts[:20]]
    cpu = SidewinderLM(subject=subject)
    wanted = cpu.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
    texts_wanted = cpu.generate_until(requests("generate_until", prompts), disable_tqdm=True)
    subject.model.cuda()
    gpu = SidewinderLM(subject=subject)
    found = gpu.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
    for (ours, _), (theirs, _) in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=NATS, rel=SHARE)
    same = [
        ours == theirs
        for ours, theirs in zip(gpu.generate_until(requests("generate_until", prompts)), texts_wanted, strict=True)
    ]
    assert sum(same) >= 0.8 * len(same), "near ties may part, most must not"
