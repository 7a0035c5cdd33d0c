"""First values of the weights, as in the paper's code (arXiv 2406.07887 and its Megatron-LM branch).

All numbers come from one seeded CPU generator in float32, in the order of the layers, so they depend on the seed alone,
not on device or dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sidewinder.config.model import ModelConfig
from sidewinder.model.attention import Attention
from sidewinder.model.lm import LanguageModel
from sidewinder.model.mamba1 import Mamba1
from sidewinder.model.mamba2 import Mamba2
from sidewinder.model.mlp import Mlp
from sidewinder.model.parts import LayerNorm, RMSNorm, ShortConv

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4
"""Step sizes are log-uniform between the first two."""
Put = Callable[[Tensor, Tensor], object]
A_MIN, A_MAX = 1.0, 16.0
"""Mamba-2's decay rates are uniform between these."""


class _Draw:
    """Fills parameters from one generator."""

    def __init__(self, seed: int, put: Put) -> None:
        self._generator, self._put = torch.Generator().manual_seed(seed), put

    def normal(self, weight: Tensor, std: float) -> None:
        self._put(weight, torch.empty(weight.shape).normal_(0.0, std, generator=self._generator))

    def uniform(self, weight: Tensor, low: float, high: float) -> None:
        self._put(weight, torch.empty(weight.shape).uniform_(low, high, generator=self._generator))

    def log_of_uniform(self, weight: Tensor, low: float, high: float) -> None:
        """Logarithms of uniform numbers."""
        weight.copy_(torch.empty(weight.shape).uniform_(low, high, generator=self._generator).log_())

    def fan_in(self, weight: Tensor) -> None:
        """Uniform with bound 1 / sqrt(inputs that one output sees)."""
        bound = 1 / math.sqrt(math.prod(weight.shape[1:]))
        self.uniform(weight, -bound, bound)

    def dt_bias(self, bias: Tensor) -> None:
        """Values whose softplus is log-uniform in [DT_MIN, DT_MAX]."""
        log_dt = torch.empty(bias.shape).uniform_(math.log(DT_MIN), math.log(DT_MAX), generator=self._generator)
        dt = log_dt.exp().clamp(min=DT_FLOOR)
        bias.copy_(dt + torch.log(-torch.expm1(-dt)))


@torch.no_grad()
def init_weights(model: LanguageModel, seed: int, put: Put = Tensor.copy_) -> None:
    """Fills every parameter of `model`, on whatever device it is; equal seeds give equal values.

    `put(parameter, values)` stores drawn values, of which a sharded model keeps a part.
    """
    draw, std = _Draw(seed, put), model.config.init_std
    draw.normal(model.embedding.weight, std)
    for layer in model.stack:
        _norm(layer.norm)
        _mixer(layer.mixer, draw, model.config)
    _norm(model.final_norm)
    draw.normal(model.head.weight, std)


def residual_depth(pattern: str) -> int:
    """The layer count by which the paper's code scales output matrices.

    It counts each letter of a pattern that has Mamba layers, but an attention and MLP pair of a Transformer as one.
    """
    return len(pattern) if "M" in pattern or "m" in pattern else math.ceil(len(pattern) / 2)


def _norm(norm: nn.Module) -> None:
    if isinstance(norm, RMSNorm):
        norm.weight.fill_(1)
    elif isinstance(norm, LayerNorm):
        norm.weight.zero_()
        norm.bias.zero_()


def _mixer(mixer: nn.Module, draw: _Draw, config: ModelConfig) -> None:
    std, depth = config.init_std, residual_depth(config.layers)
    if isinstance(mixer, Attention):
        for projection in (mixer.q_proj, mixer.k_proj, mixer.v_proj):
            draw.normal(projection.weight, std)
        draw.normal(mixer.o_proj.weight, std / math.sqrt(2 * depth))
    elif isinstance(mixer, Mlp):
        for projection in (mixer.gate_proj, mixer.up_proj) if mixer.activation == "swiglu" else (mixer.up_proj,):
            draw.normal(projection.weight, std)
        draw.normal(mixer.down_proj.weight, std / math.sqrt(2 * depth))
    elif isinstance(mixer, Mamba2):
        _mamba2(mixer, draw, std / math.sqrt(depth))
    elif isinstance(mixer, Mamba1):
        _mamba1(mixer, draw, std / math.sqrt(depth))


def _conv(conv: ShortConv, draw: _Draw) -> None:
    draw.fan_in(conv.weight)
    bound = 1 / math.sqrt(conv.weight.shape[-1])
    draw.uniform(conv.bias, -bound, bound)


def _mamba2(mixer: Mamba2, draw: _Draw, output_std: float) -> None:
    draw.fan_in(mixer.in_proj.weight)
    _conv(mixer.conv1d, draw)
    draw.dt_bias(mixer.dt_bias)
    draw.log_of_uniform(mixer.A_log, A_MIN, A_MAX)
    mixer.D.fill_(1)
    _norm(mixer.norm)
    draw.normal(mixer.out_proj.weight, output_std)


def _mamba1(mixer: Mamba1, draw: _Draw, output_std: float) -> None:
    draw.fan_in(mixer.in_proj.weight)
    _conv(mixer.conv1d, draw)
    draw.fan_in(mixer.x_proj.weight)
    draw.fan_in(mixer.dt_proj.weight)
    assert mixer.dt_proj.bias is not None
    draw.dt_bias(mixer.dt_proj.bias)
    # S4D-real: the rates of each channel are 1, 2, … N.
    mixer.A_log.copy_(torch.arange(1, mixer.state_size + 1, dtype=torch.float32).log().expand_as(mixer.A_log))
    mixer.D.fill_(1)
    draw.normal(mixer.out_proj.weight, output_std)
