"""Matrix products in float8 while a model trains, through torchao.

A product scales both of its factors into the range of float8 by their largest values, multiplies there, and gives
bfloat16. Weights, their gradients' sums, the optimizer and checkpoints are as without it. The recipes are torchao's:

    tensorwise          one scale a tensor; output gradients with more exponent bits; the least work
    rowwise             one scale a row of the first factor and a column of the second, powers of two
    rowwise_with_gw_hp  the same, but gradients of weights from bfloat16 factors; the most exact, and the only one whose
                        scales of activations depend on no other token, so on no micro-batch and no other process

The linear layers of the mixers take part. The head does not, nor do Mamba-1's `x_proj` and `dt_proj`: they are small,
and what they give goes through exponentials. Kernels take sizes that are multiples of 16; a layer with others stays in
bfloat16 and is told of. Each cast is several small kernels unless `training.compile` joins them, which only the first
recipe stands (on an H200, compiled, it trained a Transformer of 1.2 B parameters 1.19 times as fast as bfloat16).
On a CPU the casts are real and the products emulated, slowly: for tests.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sidewinder.config.training import SIZES_MULTIPLE_OF, Training
from sidewinder.errors import ConfigError
from sidewinder.model import LanguageModel
from sidewinder.model.parts import Linear, Product
from sidewinder.model.share import local
from sidewinder.ops.dispatch import in_autocast

STAY = ("x_proj", "dt_proj")
LOWEST_CAPABILITY = (8, 9)
OLDEST_TORCHAO = (0, 18)


def use_float8(model: LanguageModel, training: Training) -> None:
    """Makes the linear layers of the mixers multiply in float8, as `training.float8` says; changes no parameter.

    To be called once the layers are divided (tensor parallelism) and before FSDP. Raises ConfigError where torchao is
    not installed, the GPU has no float8, or no layer has sizes that fit.
    """
    on_gpu = training.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _check_gpu()
    product = make_product(training.float8, emulate=not on_gpu)
    misfits: Counter[str] = Counter()
    fitting = 0
    for name, linear in model.layers.named_modules():
        kind = name.rpartition(".")[2]
        if not isinstance(linear, Linear) or kind in STAY:
            continue
        rows, columns = local(linear.weight).shape
        if rows % SIZES_MULTIPLE_OF or columns % SIZES_MULTIPLE_OF:
            misfits[f"{kind} ({rows:,} x {columns:,})"] += 1
        else:
            linear.product = product
            fitting += 1
    _tell(misfits, fitting)


def make_product(recipe: str, *, emulate: bool) -> Product:
    """x Wᵀ (+ bias) of x (…, inputs) and W (outputs, inputs) in float8, with its gradients.

    Raises ConfigError where torchao is not installed, or too old.
    """
    with _quiet():
        try:
            found = version("torchao")
            if tuple(map(int, found.split(".")[:2])) < OLDEST_TORCHAO:
                raise ImportError(f"torchao {found} is installed")
            from torchao.float8 import Float8LinearConfig, convert_to_float8_training
            from torchao.float8.float8_linear import matmul_with_hp_or_float8_args as multiply
            from torchao.float8.float8_training_tensor import LinearMMConfig, ScaledMMConfig
        except ImportError as error:
            raise ConfigError(
                f"training.float8 is {recipe}, which needs torchao 0.18 or newer ({error})",
                remedy="pip install 'torchao>=0.18', or set training.float8 to none",
            ) from error
        # Converts nothing: torchao knows only torch's own linear layers. But the call mends what the compiler of some
        # torch versions makes of float8 stores (github.com/triton-lang/triton/issues/11111).
        convert_to_float8_training(nn.Sequential())
    config = Float8LinearConfig.from_recipe_name(recipe)
    settings = (config.gemm_config_output, config.gemm_config_grad_input, config.gemm_config_grad_weight)
    kernels = LinearMMConfig(*(ScaledMMConfig(emulate, each.use_fast_accum, False, False) for each in settings))

    def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = multiply.apply(in_autocast(x), in_autocast(weight).t(), kernels, config)
        return out if bias is None else out + bias.to(out.dtype)

    return product


def _check_gpu() -> None:
    capability = torch.cuda.get_device_capability()
    if capability < LOWEST_CAPABILITY:
        raise ConfigError(
            f"training.float8: {torch.cuda.get_device_name()} has no float8 (compute capability "
            f"{'.'.join(map(str, capability))}, at least {'.'.join(map(str, LOWEST_CAPABILITY))} needed)",
            remedy="set training.float8 to none, or train on a newer GPU (Ada, Hopper, Blackwell)",
        )


def _tell(misfits: Counter[str], fitting: int) -> None:
    """Says which layers stay in bfloat16, once; raises ConfigError where all do."""
    if not misfits:
        return
    listed = ", ".join(f"{count} x {kind}" for kind, count in misfits.items())
    needed = f"float8 needs rows and columns that are multiples of {SIZES_MULTIPLE_OF} on each process"
    if not fitting:
        raise ConfigError(
            f"training.float8: no linear layer fits: {listed}; {needed}",
            remedy="set training.float8 to none, or choose other sizes or a smaller mesh.tensor",
        )
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(f"warning: these linear layers stay in bfloat16: {listed}; {needed}", file=sys.stderr, flush=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without log messages: on import torchao warns of libraries for other hardware, which are not used here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
