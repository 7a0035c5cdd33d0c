"""AdamW against torch's plain implementation, the decay groups by name, and state that survives a save."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sidewinder.config import Training
from sidewinder.config.model import Mamba2, Mlp, ModelConfig
from sidewinder.model import LanguageModel
from sidewinder.train.optimizer import make_optimizer, set_rate, state_tensors
from sidewinder.train.parallel.gradients import clip, squared_norm
from sidewinder.train.parallel.world import World

TRAINING = Training(
    context_tokens=32,
    batch_sequences=4,
    budget_tokens=12_800,
    learning_rate=1e-2,
    minimum_learning_rate=1e-3,
    weight_decay=0.1,
)
SIZES = {"state_size": 4, "head_size": 8, "groups": 2, "chunk": 4}


class Small(nn.Module):
    """A layer, with the parameter names of the Mamba mixers that weight decay must leave alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(7, 5)
        self.norm = nn.LayerNorm(5)
        self.A_log = nn.Parameter(torch.randn(5, 4))
        self.D = nn.Parameter(torch.randn(5))
        self.dt_bias = nn.Parameter(torch.randn(5))


def fill_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_equals_plain_adamw() -> None:
    """The fused update against torch's element-wise loop (`foreach=False`) on the same gradients and rates."""
    ours, reference = Small(), Small()
    optimizer = make_optimizer(ours, TRAINING)
    decayed = [reference.linear.weight]
    rest = [p for p in reference.parameters() if p is not reference.linear.weight]
    plain = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-8,
        foreach=False,
        fused=False,
    )
    for step in range(20):
        for model, method in ((ours, optimizer), (reference, plain)):
            fill_gradients(model, step)
            set_rate(method, 1e-2 / (1 + step))
            method.step()
    for (name, mine), theirs in zip(ours.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, msg=name)


def test_fused_update_is_deterministic() -> None:
    weights = []
    for _ in range(2):
        model = Small()
        optimizer = make_optimizer(model, TRAINING)
        for step in range(5):
            fill_gradients(model, step)
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_gradient_norm_and_clipping_are_global() -> None:
    model = Small()
    fill_gradients(model, 1)
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
    norm = squared_norm(model.parameters(), World()).sqrt().item()
    assert norm == pytest.approx(flat.norm().item(), rel=1e-6)
    reference = copy.deepcopy([p.grad for p in model.parameters()])
    clip(model.parameters(), norm, 0.5)
    plain = [nn.Parameter(torch.zeros_like(grad)) for grad in reference]
    for parameter, grad in zip(plain, reference, strict=True):
        parameter.grad = grad
    torch.nn.utils.clip_grad_norm_(plain, 0.5)
    for mine, theirs in zip(model.parameters(), plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_state_is_named_and_restored_in_place() -> None:
    """A model goes on from copied state as the one that it was copied from; segments of `in_proj` have own names."""
    config = ModelConfig(pattern="M-", hidden_size=16, mlp=Mlp(size=8), mamba2=Mamba2(**SIZES))
    models = [LanguageModel(config, 11) for _ in range(2)]
    optimizers = [make_optimizer(model, TRAINING) for model in models]
    for step in range(3):
        fill_gradients(models[0], step)
        optimizers[0].step()
    saved = {name: value.clone() for name, value in state_tensors(models[0], optimizers[0]).items()}
    assert {f"exp_avg/layers.0.mixer.in_proj.weight/{part}" for part in range(5)} < saved.keys()
    for name, tensor in state_tensors(models[1], optimizers[1]).items():
        tensor.copy_(saved[name])
    for model, optimizer in zip(models, optimizers, strict=True):
        fill_gradients(model, 9)
        optimizer.step()
    for mine, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(mine, theirs)
