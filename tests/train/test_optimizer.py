"""AdamW against torch's plain implementation, the decay groups by name, and state that survives a save."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from sidewinder.config import Training
from sidewinder.errors import CheckpointError
from sidewinder.train.optimizer import (
    gradient_norm,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)

TRAINING = Training(
    context_tokens=32,
    batch_sequences=4,
    budget_tokens=12_800,
    learning_rate=1e-2,
    minimum_learning_rate=1e-3,
    weight_decay=0.1,
)


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


def test_gradient_norm_is_global() -> None:
    model = Small()
    fill_gradients(model, 1)
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
    assert gradient_norm(model.parameters()).item() == pytest.approx(flat.norm().item(), rel=1e-6)


def test_state_survives_a_save() -> None:
    first = Small()
    before = make_optimizer(first, TRAINING)
    for step in range(3):
        fill_gradients(first, step)
        before.step()
    saved = safetensors.torch.load(safetensors.torch.save(optimizer_tensors(first, before)))
    second = Small()
    second.load_state_dict(first.state_dict())
    after = make_optimizer(second, TRAINING)
    restore_optimizer(second, after, saved)
    for model, optimizer in ((first, before), (second, after)):
        fill_gradients(model, 9)
        optimizer.step()
    for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_state_of_another_model_is_refused() -> None:
    model = Small()
    optimizer = make_optimizer(model, TRAINING)
    fill_gradients(model, 0)
    optimizer.step()
    tensors = optimizer_tensors(model, optimizer)
    with pytest.raises(CheckpointError, match=r"linear\.bias has shape \[6\], the model's is \[5\]"):
        restore_optimizer(model, optimizer, tensors | {"linear.bias/exp_avg": torch.zeros(6)})
    without = {key: value for key, value in tensors.items() if not key.startswith("norm.bias/")}
    with pytest.raises(CheckpointError, match=r"norm\.bias"):
        restore_optimizer(model, optimizer, without)
