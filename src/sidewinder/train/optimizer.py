"""AdamW as in the paper: which tensors decay, the update, and what of it a resumable save holds."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from sidewinder.config.training import Training
from sidewinder.model import LanguageModel
from sidewinder.train.parallel.weights import named_shards

# Never decayed, whatever their shape. The paper exempts every one-dimensional tensor, these among them; Mamba-1's
# A_log has two dimensions, and mamba-ssm exempts it all the same (`_no_weight_decay`).
WITHOUT_DECAY = {"A_log", "D", "dt_bias"}


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: tensors of two or more dimensions, but for `WITHOUT_DECAY`."""
    return parameter.ndim >= 2 and name.rsplit(".", 1)[-1] not in WITHOUT_DECAY


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW over groups of tensors, decayed and not; the rate is set step by step from the schedule.

    torch's fused update works element by element: the same bits on every run with the same number of threads. It takes
    the tensors of a group at once, so those on different meshes of processes are in different groups. The state is made
    here rather than by the first step, so that it is there for a restore, and want of memory shows at once.
    """
    groups: dict[tuple[bool, object], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[decays(name, parameter), getattr(parameter, "device_mesh", None)].append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": training.weight_decay if decayed else 0.0}
            for (decayed, _), parameters in groups.items()
        ],
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        fused=True,
    )
    for parameter in (parameter for parameters in groups.values() for parameter in parameters):
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def state_tensors(model: LanguageModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and optimizer state under the names of a resumable save, as views: writing into them restores them."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        values = {"weights": parameter.detach(), **optimizer.state.get(parameter, {})}
        for kind, value in values.items():
            named = named_shards(model, name, parameter, value)
            tensors |= {f"{kind}/{part}": tensor for part, tensor in named.items()}
    return tensors
