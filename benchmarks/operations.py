"""Every operation with its reference, its forms on a device, and inputs of any length, for errors.py.

Sizes are small, and on a CPU smaller still: a reference takes a step a token.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sidewinder.ops import causal_conv1d as conv
from sidewinder.ops import (
    cross_entropy,
    dispatch,
    gated_norm,
    linear_scan,
    norms,
    rope,
    selective_scan,
    squared_relu,
    ssd,
)

ROWS = 3
"""Sequences of a batch, each with its own documents."""
CHUNK = 16
STEPPED = 129
"""Longest sequence that is read a token at a time."""


@dataclass(frozen=True)
class Form:
    """One way to compute an operation; `settings` are (module, name, value) that force it."""

    name: str
    call: Callable[..., Any]
    settings: tuple[tuple[ModuleType, str, Any], ...] = ()
    gradients: bool = True
    longest: int = sys.maxsize
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16")


@dataclass(frozen=True)
class Operation:
    """`draw(length, initial, packed)` gives the inputs in float64; `parameters` never take a 16-bit type."""

    name: str
    draw: Callable[[int, bool, bool], dict[str, Any]]
    reference: Callable[..., Any]
    forms: list[Form]
    parameters: tuple[str, ...] = ()
    initial: bool = False
    packed: bool = False
    gradients: bool = True


def operations(device: str) -> dict[str, list[Operation]]:
    """All operations by name; one that has several sizes worth looking at is there once for each."""
    gpu = device == "cuda"
    return {
        "convolution": [_convolution(gpu)],
        "ssd": [_ssd(gpu)],
        "selective-scan": [
            _selective_scan(gpu, states, gated) for states in ((16, 128) if gpu else (5,)) for gated in (False, True)
        ],
        "gated-norm": [_gated_norm(gpu)],
        "cross-entropy": [_cross_entropy(gpu)],
        "rms-norm": [_rms_norm()],
        "layer-norm": [_layer_norm()],
        "rope": [_rope()],
        "squared-relu": [_squared_relu()],
        "linear-scan": [_linear_scan("forward"), _linear_scan("backward")],
    }


class Draw:
    """Numbers that bfloat16 holds exactly, the same for a seed wherever they are drawn."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return exact(torch.randn(*shape, generator=self.generator, dtype=torch.float64))

    def step_sizes(self, *shape: int) -> Tensor:
        """Positive, mostly between 0.002 and 2."""
        return exact(F.softplus(2 * self(*shape) - 2))

    def rates(self, *shape: int) -> Tensor:
        """Negative."""
        return exact(-torch.exp(self(*shape)))

    def resets(self, length: int) -> Tensor:
        """Row 0: first and last token; row 1: borders of chunks, also two in a row; row 2: one token in 40."""
        resets_BL = torch.rand(ROWS, length, generator=self.generator) < 1 / 40
        resets_BL[:2] = False
        resets_BL[0, [0, length - 1]] = True
        for chunk in (CHUNK, 128):
            resets_BL[1, chunk : 8 * chunk : 3 * chunk] = True
            resets_BL[1, chunk + 1 : 8 * chunk : 6 * chunk] = True
        return resets_BL


def exact(x: Tensor) -> Tensor:
    return x.bfloat16().double()


def _state(draw: Draw, key: str, shape: tuple[int, ...], length: int, initial: bool, packed: bool) -> dict[str, Tensor]:
    """The initial state and the resets of a case, where it has them."""
    given = {key: draw(*shape)} if initial else {}
    return given | ({"resets_BL": draw.resets(length)} if packed else {})


def _forms(call: Callable[..., Any], gpu: bool, kernels: str = "", **options: Any) -> list[Form]:
    """The public function: on a GPU as plain torch, and, where `kernels` names them, as itself."""
    if not gpu:
        return [Form("ours", partial(call, **options))]
    plain = Form("torch", partial(call, **options), settings=((dispatch, "HAS_TRITON", False),))
    return [Form(kernels, partial(call, **options), dtypes=("float32", "bfloat16")), plain] if kernels else [plain]


def _stepwise(call: Callable[..., Any], state: str) -> Form:
    """A token at a time, without gradients, as when decoding."""

    def run(**inputs: Any) -> tuple[Tensor, Tensor]:
        timed, outputs = {name for name in inputs if "_BL" in name}, []
        for t in range(next(iter(inputs.values())).shape[1]):
            step = {name: value[:, t : t + 1] if name in timed else value for name, value in inputs.items()}
            out, inputs[state] = call(**step)
            outputs.append(out)
        return torch.cat(outputs, dim=1), inputs[state]

    return Form("a token at a time", run, gradients=False, longest=STEPPED)


def _convolution(gpu: bool) -> Operation:
    channels, width = (72, 4) if gpu else (6, 4)

    def draw(length: int, initial: bool, packed: bool) -> dict[str, Any]:
        normal = Draw(length)
        inputs = {"x_BLC": normal(ROWS, length, channels)}
        inputs |= {"weight_C1W": normal(channels, 1, width), "bias_C": normal(channels)}
        return inputs | _state(normal, "initial_BSC", (ROWS, width - 1, channels), length, initial, packed)

    forms = [*_forms(conv.causal_conv1d, gpu, "Triton"), _stepwise(conv.causal_conv1d, "initial_BSC")]
    parameters = ("weight_C1W", "bias_C")
    return Operation("convolution", draw, conv.causal_conv1d_reference, forms, parameters, initial=True, packed=True)


def _ssd(gpu: bool) -> Operation:
    heads, size, groups, states = (4, 32, 2, 64) if gpu else (4, 3, 2, 5)

    def draw(length: int, initial: bool, packed: bool) -> dict[str, Any]:
        normal = Draw(length)
        inputs = {
            "x_BLHP": normal(ROWS, length, heads, size),
            "dt_BLH": normal.step_sizes(ROWS, length, heads),
            "A_H": normal.rates(heads),
            "B_BLGN": normal(ROWS, length, groups, states),
            "C_BLGN": normal(ROWS, length, groups, states),
            "D_H": normal(heads),
        }
        return inputs | _state(normal, "initial_BHPN", (ROWS, heads, size, states), length, initial, packed)

    if gpu:
        forms = _forms(ssd.ssd, gpu, "Triton", chunk=128)
    else:
        forms = [Form(f"chunks of {chunk}", partial(ssd.ssd, chunk=chunk)) for chunk in (CHUNK, 128)]
    forms.append(_stepwise(partial(ssd.ssd, chunk=128), "initial_BHPN"))
    parameters = ("A_H", "D_H", "initial_BHPN")
    return Operation("SSD", draw, ssd.ssd_reference, forms, parameters, initial=True, packed=True)


def _selective_scan(gpu: bool, states: int, gated: bool) -> Operation:
    """Alone, or `gated`: with softplus and a bias before it and silu(z) behind it."""
    channels = (72 if states < 64 else 40) if gpu else 3

    def draw(length: int, initial: bool, packed: bool) -> dict[str, Any]:
        normal = Draw(length)
        inputs = {
            "x_BLD": normal(ROWS, length, channels),
            "dt_BLD": normal.step_sizes(ROWS, length, channels),
            "A_DN": normal.rates(channels, states),
            "B_BLN": normal(ROWS, length, states),
            "C_BLN": normal(ROWS, length, states),
            "D_D": normal(channels),
        }
        if gated:
            inputs |= {"dt_BLD": normal(ROWS, length, channels), "dt_bias_D": exact(normal(channels) - 2)}
            inputs |= {"z_BLD": normal(ROWS, length, channels)}
        return inputs | _state(normal, "initial_BDN", (ROWS, channels, states), length, initial, packed)

    call = selective_scan.selective_scan
    if gpu:
        forms = _forms(call, gpu, "Triton")
    else:
        small = (selective_scan, "BLOCK_NUMBERS", 1)
        forms = [
            Form("one block, in pairs", call, settings=((linear_scan, "WIDE", sys.maxsize),)),
            Form("blocks of 16, walking", call, settings=((linear_scan, "WIDE", 1), small)),
        ]
    forms.append(_stepwise(call, "initial_BDN"))
    name = f"{'gated ' if gated else ''}selective scan, state {states}"
    parameters = ("A_DN", "D_D", "dt_bias_D", "initial_BDN")
    reference = selective_scan.selective_scan_reference
    return Operation(name, draw, reference, forms, parameters, initial=True, packed=True)


def _gated_norm(gpu: bool) -> Operation:
    channels, groups, eps = (96, 4, 1e-5) if gpu else (12, 3, 1e-5)

    def draw(length: int, initial: bool, packed: bool) -> dict[str, Any]:
        normal = Draw(length)
        inputs = {"x_D": normal(ROWS, length, channels), "z_D": normal(ROWS, length, channels)}
        return inputs | {"weight_D": normal(channels)}

    forms = _forms(gated_norm.gated_norm, gpu, "Triton", eps=eps, groups=groups)
    reference = partial(gated_norm.gated_norm_reference, eps=eps, groups=groups)
    return Operation("gated norm", draw, reference, forms, ("weight_D",))


def _cross_entropy(gpu: bool) -> Operation:
    """A length is a number of tokens; a quarter of them has no target."""
    channels, vocabulary = (64, 5001) if gpu else (8, 301)

    def draw(length: int, initial: bool, packed: bool) -> dict[str, Any]:
        normal = Draw(length)
        targets_T = torch.randint(vocabulary, (length,), generator=normal.generator)
        targets_T[1::4] = cross_entropy.IGNORED
        weight_VD = exact(normal(vocabulary, channels) * channels**-0.5)
        return {"hidden_TD": normal(length, channels), "weight_VD": weight_VD, "targets_T": targets_T}

    forms = _forms(cross_entropy.cross_entropy, gpu, "Triton")
    if not gpu:
        small = (cross_entropy, "BLOCK_BYTES", 7 * vocabulary * 8)
        forms.append(Form("blocks of 7 tokens", cross_entropy.cross_entropy, settings=(small,)))
    return Operation("cross-entropy", draw, cross_entropy.cross_entropy_reference, forms)


def _rms_norm() -> Operation:
    def draw(length: int, initial: bool, packed: bool) -> dict[str, Any]:
        normal = Draw(length)
        return {"x_D": normal(ROWS, length, 24), "weight_D": normal(24)}

    form, reference = partial(norms.rms_norm, eps=1e-5), partial(norms.rms_norm_reference, eps=1e-5)
    return Operation("RMSNorm", draw, reference, [Form("ours", form)], ("weight_D",))


def _layer_norm() -> Operation:
    def draw(length: int, initial: bool, packed: bool) -> dict[str, Any]:
        normal = Draw(length)
        return {"x_D": exact(normal(ROWS, length, 24) + 1), "weight_D": normal(24), "bias_D": normal(24)}

    form, reference = partial(norms.layer_norm, eps=1e-5), partial(norms.layer_norm_reference, eps=1e-5)
    return Operation("LayerNorm", draw, reference, [Form("ours", form)], ("weight_D", "bias_D"))


def _rope() -> Operation:
    """The initial state is the number of tokens before the first."""

    def draw(length: int, initial: bool, packed: bool) -> dict[str, Any]:
        return {"x_BLHE": Draw(length)(ROWS, length, 2, 12), "offset": 1000 if initial else 0}

    form, reference = (partial(call, rotated=8, base=1e4) for call in (rope.rope, rope.rope_reference))
    return Operation("RoPE", draw, reference, [Form("ours", form)], initial=True)


def _squared_relu() -> Operation:
    def draw(length: int, initial: bool, packed: bool) -> dict[str, Any]:
        return {"x": Draw(length)(ROWS, length, 24)}

    forms = [Form("ours", squared_relu.squared_relu)]
    return Operation("squared ReLU", draw, squared_relu.squared_relu_reference, forms)


def _linear_scan(way: str) -> Operation:
    """The recurrence inside both scans, in place; what it does in bfloat16 is not asked anywhere."""
    last = way == "backward"

    def draw(length: int, initial: bool, packed: bool) -> dict[str, Any]:
        normal = Draw(length)
        return {"a_T": exact(torch.sigmoid(normal(length, ROWS, 5) + 2)), "b_T": normal(length, ROWS, 5)}

    def reference(a_T: Tensor, b_T: Tensor) -> Tensor:
        a_T, h_T = (a_T.flip(0), b_T.flip(0)) if last else (a_T, b_T.clone())
        for t in range(1, len(h_T)):
            h_T[t] += a_T[t] * h_T[t - 1]
        return h_T.flip(0) if last else h_T

    def call(a_T: Tensor, b_T: Tensor) -> Tensor:
        scan = linear_scan.scan_backward_ if last else linear_scan.scan_forward_
        return scan(a_T, b_T.clone())

    wide = {"in pairs": sys.maxsize, "walking": 1}
    types = ("float64", "float32")
    forms = [Form(name, call, ((linear_scan, "WIDE", value),), dtypes=types) for name, value in wide.items()]
    return Operation(f"linear scan {way}", draw, reference, forms, gradients=False)
