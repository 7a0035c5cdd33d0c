"""The Triton kernels of Mamba-1 layers, norms and loss run by Triton's interpreter on a CPU against float64 references.

The interpreter runs the kernels' own Python on numbers in memory: it shows that indices, masks and formulas are right,
on a machine without a GPU (tests/ops_gpu shows the rest). `test_triton_interpreted.py` runs this file in a process of
its own, with TRITON_INTERPRET=1 from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sidewinder.config.model import Mamba1, ModelConfig
from sidewinder.model import LanguageModel, init_weights
from sidewinder.ops import mamba1, norms, norms_triton, selective_scan_launches, selective_scan_triton
from sidewinder.ops.causal_conv1d import causal_conv1d_reference
from sidewinder.ops.causal_conv1d_triton import causal_conv1d_triton
from sidewinder.ops.cross_entropy import cross_entropy_reference
from sidewinder.ops.cross_entropy_triton import cross_entropy_triton
from sidewinder.ops.mamba1_triton import convolve_and_project_triton, scan_projected_triton
from sidewinder.ops.norms import rms_norm_reference
from sidewinder.ops.norms_triton import add_rms_norm_triton
from sidewinder.ops.selective_scan import selective_scan_reference
from sidewinder.ops.selective_scan_triton import selective_scan_triton as scan

BOUND = 5e-6
Draw = Callable[..., Tensor]


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> Draw:
    """Normal numbers, seeded by the test's name."""
    seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(request.node.name))
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def scan_inputs(draw: Draw, batch: int, length: int, channels: int, states: int) -> dict[str, Tensor]:
    """With a gate and a bias of dt; `x` and `z` are halves of one tensor, as in the layer. One z is exactly 0."""
    xz = draw(batch, length, 2 * channels)
    z = xz[..., channels:]
    z[0, 0, 0] = 0.0
    return {
        "x_BLD": xz[..., :channels],
        "dt_BLD": 2 * draw(batch, length, channels),
        "A_DN": -torch.exp(draw(channels, states)),
        "B_BLN": draw(batch, length, states),
        "C_BLN": draw(batch, length, states),
        "D_D": draw(channels),
        "z_BLD": z,
        "dt_bias_D": draw(channels) - 3,
    }


def worst(found: Callable[..., Any], expected: Callable[..., Any], inputs: dict[str, Tensor], draw: Draw) -> float:
    """Largest ‖found − expected‖ / ‖expected‖ of all outputs and gradients, the latter in float64.

    What is found is computed as in a recomputed layer, where a backward pass may ask only once for what it kept.
    """
    results = []
    noise: list[Tensor] = []
    recomputed = partial(checkpoint, found, use_reentrant=False)
    for function, dtype in ((recomputed, torch.float32), (expected, torch.float64)):
        leaves = {key: value.detach().to(dtype).requires_grad_() for key, value in inputs.items()}
        outputs = function(**leaves)
        noise = noise or [draw(*out.shape) for out in outputs]
        gradients = torch.autograd.grad(outputs, list(leaves.values()), [part.to(dtype) for part in noise])
        results.append([*(out.detach() for out in outputs), *gradients])
    assert all(a.shape == b.shape for a, b in zip(*results, strict=True))
    errors = [(a - b).norm() / b.norm().clamp(min=1e-6) for a, b in zip(*results, strict=True)]
    return float(torch.stack(errors).max())  # NaN where any is.


# Sequences, tokens, channels, states; whether there is an initial state, whether documents are packed.
CASES = [
    (2, 19, 5, 16, True, True),
    (1, 3, 2, 40, False, True),
    (2, 8, 70, 3, True, False),
    (2, 1, 2, 4, False, False),
]


@pytest.mark.parametrize(("batch", "length", "channels", "states", "initial", "packed"), CASES)
def test_scan_with_softplus_and_gate(
    draw: Draw, batch: int, length: int, channels: int, states: int, initial: bool, packed: bool
) -> None:
    inputs = scan_inputs(draw, batch, length, channels, states)
    if initial:
        inputs["initial_BDN"] = draw(batch, channels, states)
    resets_BL = draw(batch, length) > 1.5 if packed else None

    def check(form: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **given: form(**given, resets_BL=resets_BL)

    assert worst(check(scan), check(selective_scan_reference), inputs, draw) < BOUND


@pytest.mark.parametrize("left_out", [("z_BLD",), ("dt_bias_D",), ("z_BLD", "dt_bias_D")])
def test_scan_without_either(draw: Draw, left_out: tuple[str, ...]) -> None:
    inputs = scan_inputs(draw, 1, 21, 4, 3)
    if "dt_bias_D" in left_out:
        inputs["dt_BLD"] = F.softplus(inputs["dt_BLD"] - 3)
    for name in left_out:
        del inputs[name]
    assert worst(scan, selective_scan_reference, inputs, draw) < BOUND


def test_several_cuts_of_time(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stretches forward (128 tokens and the rest); backward two spans, the first of two stretches of 64."""
    monkeypatch.setattr(selective_scan_launches, "WARPS_WANTED", 10_000)
    monkeypatch.setattr(selective_scan_triton, "SPAN_BYTES", 1)
    for module in (selective_scan_launches, selective_scan_triton):
        monkeypatch.setattr(module, "saved_tokens", lambda states: 128)
    inputs = scan_inputs(draw, 1, 150, 3, 2) | {"initial_BDN": draw(1, 3, 2)}
    resets_BL = torch.zeros(1, 150, dtype=torch.bool)
    resets_BL[0, [5, 70, 141]] = True

    def check(form: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **given: form(**given, resets_BL=resets_BL)

    assert worst(check(scan), check(selective_scan_reference), inputs, draw) < BOUND


def test_small_step_sizes_keep_their_digits(draw: Draw) -> None:
    """Softplus of −12 is 6e-6; a plain logarithm of 1 + exp(−12) in float32 would be off by a hundredth of it."""
    inputs = scan_inputs(draw, 1, 16, 4, 2)
    inputs["dt_bias_D"] = torch.full((4,), -12.0)
    assert worst(scan, selective_scan_reference, inputs, draw) < BOUND


@pytest.mark.parametrize(("length", "initial", "packed"), [(21, True, True), (2, True, False), (70, False, True)])
def test_convolution(draw: Draw, length: int, initial: bool, packed: bool) -> None:
    inputs = {"x_BLC": draw(2, length, 12)[..., 3:10], "weight_C1W": draw(7, 1, 4), "bias_C": draw(7)}
    if initial:
        inputs["initial_BSC"] = draw(2, 3, 7)
    resets_BL = draw(2, length) > 1.0 if packed else None

    def check(form: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **given: form(**given, resets_BL=resets_BL)

    assert worst(check(causal_conv1d_triton), check(causal_conv1d_reference), inputs, draw) < BOUND


@pytest.mark.parametrize("vocabulary", [37, 5000])
def test_cross_entropy(draw: Draw, vocabulary: int) -> None:
    """A vocabulary that does not fill its block, one of two blocks, and targets that have no loss."""
    inputs = {"hidden": draw(5, 6), "weight": draw(vocabulary, 6)}
    targets_T = torch.tensor([0, vocabulary - 1, -100, vocabulary // 2, 36])

    def ours(hidden: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (cross_entropy_triton(hidden, weight, targets_T)[None],)

    def plain(hidden: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (cross_entropy_reference(hidden, weight, targets_T)[None],)

    assert worst(ours, plain, inputs, draw) < BOUND


@pytest.mark.parametrize("used", [(0, 1), (0,), (1,)])
@pytest.mark.parametrize("updated", [True, False])
def test_norm_of_the_stream(draw: Draw, monkeypatch: pytest.MonkeyPatch, updated: bool, used: tuple[int, ...]) -> None:
    """More rows than programs; either output may have no gradient."""
    inputs = {"x": draw(2, 7, 19), "weight": draw(19)} | ({"update": draw(2, 7, 19)} if updated else {})

    def ours(x: Tensor, weight: Tensor, update: Tensor | None = None) -> tuple[Tensor, ...]:
        outputs = add_rms_norm_triton(x, update, weight, 1e-5, x.dtype)
        return tuple(outputs[place] + 0 * weight for place in used)

    def plain(x: Tensor, weight: Tensor, update: Tensor | None = None) -> tuple[Tensor, ...]:
        stream = x if update is None else x + update
        outputs = stream, rms_norm_reference(stream, weight, 1e-5)
        return tuple(outputs[place] + 0 * weight for place in used)

    monkeypatch.setattr(norms_triton, "BACKWARD_PROGRAMS", 5)
    assert worst(ours, plain, inputs, draw) < BOUND


@pytest.mark.parametrize("stream", [torch.float32, torch.float16])
def test_norm_of_the_stream_in_two_types(draw: Draw, stream: torch.dtype) -> None:
    """The sum is rounded as by torch, each gradient has its input's type. The interpreter truncates bfloat16."""
    x, update = draw(9, 40).to(stream).requires_grad_(), draw(9, 40).half().requires_grad_()
    weight, noise = draw(40).requires_grad_(), (draw(9, 40).to(stream), draw(9, 40).half())
    found = add_rms_norm_triton(x, update, weight, 1e-5, torch.float16)
    expected = (x + update, rms_norm_reference((x + update).float(), weight, 1e-5).half())
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    gradients = [torch.autograd.grad(outputs, [x, update, weight], noise) for outputs in (found, expected)]
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize(("length", "gated", "initial", "packed"), [(21, True, True, True), (13, False, False, False)])
def test_inside_of_the_layer(draw: Draw, length: int, gated: bool, initial: bool, packed: bool) -> None:
    """Both joined operations in a row, with all that they compute again in the backward pass."""
    channels, rank, states = 6, 2, 3
    inputs = {
        "xz": draw(2, length, 2 * channels),
        "weight": draw(channels, 1, 4),
        "bias": draw(channels),
        "project": draw(rank + 2 * states, channels),
        "dt_weight": draw(channels, rank),
        "dt_bias": draw(channels) - 2,
        "A": -torch.exp(draw(channels, states)),
        "D": draw(channels),
    }
    if initial:
        inputs |= {"tail": draw(2, 3, channels), "state": draw(2, channels, states)}
    resets_BL = draw(2, length) > 1.0 if packed else None

    def layer(project: Callable[..., Any], scan: Callable[..., Any]) -> Callable[..., Any]:
        def run(xz, weight, bias, dt_weight, dt_bias, A, D, tail=None, state=None, **rest):  # type: ignore[no-untyped-def]
            x, z = xz.chunk(2, dim=-1)
            x, dtBC, last = project(x, weight, bias, tail, resets_BL, rest["project"])
            return *scan(x, dtBC, dt_weight, dt_bias, A, D, z if gated else None, state), last, dtBC

        return run

    def plain_project(x, weight, bias, tail, resets, project):  # type: ignore[no-untyped-def]
        return mamba1.convolve_and_project(x, weight, bias, project, initial_BSI=tail, resets_BL=resets)

    def plain_scan(x, dtBC, dt_weight, dt_bias, A, D, z, state):  # type: ignore[no-untyped-def]
        return mamba1.scan_projected(x, dtBC, dt_weight, dt_bias, A, D, z_BLI=z, initial_BIN=state)

    if not gated:
        inputs["xz"][..., channels:] = 0
    ours, plain = layer(convolve_and_project_triton, scan_projected_triton), layer(plain_project, plain_scan)
    assert worst(ours, plain, inputs, draw) < BOUND


def test_layer_keeps_its_inputs_and_the_gated_output(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the whole mixer saves for the backward pass, in numbers a token; and it is the mixer of the plain form."""
    config = ModelConfig(pattern="m", hidden_size=16, mamba1=Mamba1(state_size=2, dt_rank=2))
    mixer = LanguageModel(config, 8).stack[0].mixer
    for parameter in mixer.parameters():
        parameter.data = draw(*parameter.shape) / 4
    tokens, inner = 24, 32
    inputs_BLD = draw(1, tokens, 16)
    results, kept = [], {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for kernels in (False, True):
        monkeypatch.setattr(mamba1, "on_gpu", lambda x, kernels=kernels: kernels)
        kept.clear()
        leaf_BLD = inputs_BLD.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out_BLD = mixer(leaf_BLD)
        results.append([out_BLD, *torch.autograd.grad(out_BLD.square().sum(), [leaf_BLD, *mixer.parameters()])])
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    parameters = sum(parameter.nbytes for parameter in mixer.parameters())
    # x, z and the gated output; the layer's input; dt (low rank), B and C; the one saved state and copies of A.
    expected = 4 * (tokens * (3 * inner + 16 + (2 + 2 * 2)) + 4 * 2 * inner)
    assert sum(kept.values()) <= expected + parameters


def test_layer_compiled_is_the_same(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """The joined operations as operators of one graph, from packed documents under autocast."""
    monkeypatch.setattr(mamba1, "on_gpu", lambda x: True)
    mixer = (
        LanguageModel(ModelConfig(pattern="m", hidden_size=8, mamba1=Mamba1(state_size=3, dt_rank=2)), 8).stack[0].mixer
    )
    for parameter in mixer.parameters():
        parameter.data = draw(*parameter.shape) / 4
    inputs_BLD, resets_BL = draw(1, 11, 8), draw(1, 11) > 1.0
    results = []
    for run in (mixer, torch.compile(mixer, backend="aot_eager", fullgraph=True)):
        leaf_BLD = inputs_BLD.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out_BLD = run(leaf_BLD, None, resets_BL)
        results.append([out_BLD, *torch.autograd.grad(out_BLD.float().square().sum(), [leaf_BLD, *mixer.parameters()])])
    assert all(torch.equal(eager, graph) for eager, graph in zip(*results, strict=True))


def test_model_with_all_kernels(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and mixers of two layers: the loss and every gradient are those of the plain forms."""
    model = LanguageModel(ModelConfig(pattern="mm", hidden_size=8, mamba1=Mamba1(state_size=3, dt_rank=2)), 11)
    init_weights(model, 1)
    tokens_BL = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(3))
    results = []
    for kernels in (False, True):
        for module in (mamba1, norms):
            monkeypatch.setattr(module, "on_gpu", lambda x, kernels=kernels: kernels)
        loss = model.loss(tokens_BL, tokens_BL.roll(1, 1))
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)
