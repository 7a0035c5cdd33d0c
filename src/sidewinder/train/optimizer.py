"""AdamW as in the paper: which tensors decay, the update, and the gradient norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from sidewinder.config.training import Training
from sidewinder.errors import CheckpointError

# Never decayed, whatever their shape. The paper exempts every one-dimensional tensor, these among them; Mamba-1's
# A_log has two dimensions, and mamba-ssm exempts it all the same (`_no_weight_decay`).
WITHOUT_DECAY = {"A_log", "D", "dt_bias"}


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: tensors of two or more dimensions, but for `WITHOUT_DECAY`."""
    return parameter.ndim >= 2 and name.rsplit(".", 1)[-1] not in WITHOUT_DECAY


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW over two groups, decayed and not; the rate is set step by step from the schedule.

    torch's fused update works element by element: the same bits on every run with the same number of threads.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": training.weight_decay},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        fused=True,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Global L2 norm of all gradients, a scalar on their device."""
    return get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter name, for a save: `layers.0.norm.weight/exp_avg` and so on."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts saved state back. Raises CheckpointError where the names or shapes are not those of the model."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = {key.rsplit("/", 1)[0] for key in tensors}
    if found != set(parameters):
        odd = sorted(found ^ set(parameters))
        raise CheckpointError(f"the saved optimizer state is of another model: {', '.join(odd[:8])} differ")
    for key, value in tensors.items():
        name, part = key.rsplit("/", 1)
        parameter = parameters[name]
        if value.ndim and value.shape != parameter.shape:
            raise CheckpointError(
                f"the saved optimizer state of {name} has shape {list(value.shape)}, "
                f"the model's is {list(parameter.shape)}"
            )
        optimizer.state[parameter][part] = value.to(parameter.device)
