"""The adapter on a GPU: shared prefixes and ragged generation give what the CPU gives."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from sidewinder.evaluate.adapter import SidewinderLM
from sidewinder.evaluate.subject import Subject

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


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
        assert ours == pytest.approx(theirs, abs=0.02)
    same = [
        ours == theirs
        for ours, theirs in zip(gpu.generate_until(requests("generate_until", prompts)), texts_wanted, strict=True)
    ]
    assert sum(same) >= 0.8 * len(same), "near ties may part, most must not"
