"""The Triton kernels of Mamba-2 layers run by Triton's interpreter on a CPU; see interpreted.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interpreted import BOUND, Draw, worst
from torch import Tensor

from sidewinder.config.model import Mamba2, ModelConfig
from sidewinder.model import LanguageModel
from sidewinder.ops import mamba2, ssd_launches
from sidewinder.ops.gated_norm import gated_norm_reference
from sidewinder.ops.gated_norm_triton import gated_norm_triton
from sidewinder.ops.mamba2 import Inside
from sidewinder.ops.mamba2_triton import mix_triton
from sidewinder.ops.ssd import ssd_reference
from sidewinder.ops.ssd_launches import Launch, Plan
from sidewinder.ops.ssd_triton import ssd_triton

ONE = Launch(4, 1)


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> Draw:
    """Normal numbers, seeded by the test's name."""
    seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(request.node.name))
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def ssd_inputs(
    draw: Draw, batch: int, length: int, heads: int, channels: int, groups: int, states: int
) -> dict[str, Tensor]:
    """x, B and C are slices of one tensor, as in the layer."""
    bc = groups * states
    x, b, c, _ = draw(batch, length, heads * channels + 2 * bc + 5).split([heads * channels, bc, bc, 5], dim=-1)
    return {
        "x_BLHP": x.unflatten(-1, (heads, -1)),
        "dt_BLH": F.softplus(draw(batch, length, heads) - 1),
        "A_H": -torch.exp(draw(heads)),
        "B_BLGN": b.unflatten(-1, (groups, -1)),
        "C_BLGN": c.unflatten(-1, (groups, -1)),
        "D_H": draw(heads),
    }


def check(draw: Draw, inputs: dict[str, Tensor], resets_BL: Tensor | None) -> None:
    def found(**given: Any) -> Any:
        return ssd_triton(**given, chunk=128, resets_BL=resets_BL)

    def expected(**given: Any) -> Any:
        return ssd_reference(**given, resets_BL=resets_BL)

    assert worst(found, expected, inputs, draw) < BOUND


# Sequences, tokens, heads, channels, groups, states; whether there is an initial state, whether documents are packed.
# In float32 a chunk has 32 tokens, a block of a head 16 channels.
CASES = [
    (2, 70, 4, 3, 2, 5, True, True),
    (1, 33, 2, 40, 1, 20, True, False),
    (1, 1, 2, 16, 2, 16, True, True),
    (1, 64, 3, 4, 3, 2, False, False),
    (1, 20, 1, 2, 1, 130, False, True),
]


@pytest.mark.parametrize(("batch", "length", "heads", "channels", "groups", "states", "initial", "packed"), CASES)
def test_ssd(
    draw: Draw,
    batch: int,
    length: int,
    heads: int,
    channels: int,
    groups: int,
    states: int,
    initial: bool,
    packed: bool,
) -> None:
    inputs = ssd_inputs(draw, batch, length, heads, channels, groups, states)
    if initial:
        inputs["initial_BHPN"] = draw(batch, heads, channels, states)
    resets_BL = draw(batch, length) > 1.5 if packed else None
    check(draw, inputs, resets_BL)


@pytest.mark.parametrize("wanted", [1, 10_000])
def test_heads_together_or_apart(draw: Draw, monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
    """All heads of a group in one program, or one in each and the parts of dB and dC summed; chunks of two sizes."""
    monkeypatch.setattr(ssd_launches, "PROGRAMS_WANTED", wanted)
    monkeypatch.setattr(ssd_launches, "plan_for", lambda *_: Plan(32, 16, 16, 16, True, ONE, ONE, ONE, ONE))
    inputs = ssd_inputs(draw, 1, 53, 4, 20, 2, 20) | {"initial_BHPN": draw(1, 4, 20, 20)}
    resets_BL = torch.zeros(1, 53, dtype=torch.bool)
    resets_BL[0, [5, 16, 31, 50]] = True  # None in the third chunk, so that a state goes through it.
    check(draw, inputs, resets_BL)


def test_strong_decays_stay_finite(draw: Draw) -> None:
    """Decays that underflow within a chunk, and none at all."""
    inputs = ssd_inputs(draw, 1, 66, 2, 4, 1, 4)
    inputs["dt_BLH"] = torch.cat([inputs["dt_BLH"][:, :40] * 100, inputs["dt_BLH"][:, 40:] * 0], 1)
    leaves = {key: value.detach().requires_grad_() for key, value in inputs.items()}
    y, final = ssd_triton(**leaves, chunk=128)
    expected, _ = ssd_reference(**{key: value.double() for key, value in inputs.items()})
    assert (y - expected).norm() < 1e-5 * expected.norm()
    for gradient in torch.autograd.grad(y.square().sum() + final.sum(), list(leaves.values())):
        assert gradient.isfinite().all()


def test_gradient_of_the_state_alone(draw: Draw) -> None:
    inputs = ssd_inputs(draw, 1, 40, 2, 4, 1, 4)
    del inputs["D_H"], inputs["C_BLGN"]  # They do not reach the state.
    rest = {"D_H": torch.ones(2), "C_BLGN": torch.ones(1, 40, 1, 4)}

    def found(**given: Any) -> Any:
        return ssd_triton(**given, **rest, chunk=128)[1:]

    def expected(**given: Any) -> Any:
        return ssd_reference(**given, **{key: part.double() for key, part in rest.items()})[1:]

    assert worst(found, expected, inputs, draw) < BOUND


def test_half_precision(draw: Draw) -> None:
    """Numbers that float16 holds, products of it, and sums in float32; parameters and the state are float32."""
    inputs = ssd_inputs(draw, 1, 40, 2, 20, 1, 5) | {"initial_BHPN": draw(1, 2, 20, 5)}
    halves = {key for key in inputs if key not in ("A_H", "D_H", "initial_BHPN")}
    inputs = {key: part.half().float() if key in halves else part for key, part in inputs.items()}

    def found(**given: Tensor) -> tuple[Tensor, Tensor]:
        y, final = ssd_triton(**{key: part.half() if key in halves else part for key, part in given.items()}, chunk=128)
        assert (y.dtype, final.dtype) == (torch.float16, torch.float32)
        return y.float(), final

    assert worst(found, ssd_reference, inputs, draw) < 2e-3


def test_gated_norm(draw: Draw) -> None:
    inputs = {"x": draw(2, 5, 12), "z": draw(2, 5, 20)[..., 3:15], "weight": draw(12)}

    def found(x: Tensor, z: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (gated_norm_triton(x, z, weight, 1e-5, 3),)

    def expected(x: Tensor, z: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (gated_norm_reference(x, z, weight, 1e-5, 3),)

    assert worst(found, expected, inputs, draw) < BOUND


@pytest.mark.parametrize(("length", "initial", "packed"), [(37, True, True), (2, True, False), (18, False, False)])
def test_inside_of_the_layer(draw: Draw, length: int, initial: bool, packed: bool) -> None:
    """Convolution, scan and norm as one operation, and all gradients in one array."""
    heads, channels, groups, states = 4, 3, 2, 5
    inner, convolved = heads * channels, heads * channels + 2 * groups * states
    inputs = {
        "projected": draw(2, length, inner + convolved + heads),
        "conv_weight": draw(convolved, 1, 4),
        "conv_bias": draw(convolved),
        "dt_bias": draw(heads) - 2,
        "A": -torch.exp(draw(heads)),
        "D": draw(heads),
        "norm_weight": draw(inner),
    }
    if initial:
        inputs |= {"tail": draw(2, 3, convolved), "state": draw(2, heads, channels, states)}
    resets_BL = draw(2, length) > 1.0 if packed else None

    def run(form: Callable[..., Any]) -> Callable[..., Any]:
        def layer(projected, conv_weight, conv_bias, dt_bias, A, D, norm_weight, tail=None, state=None):  # type: ignore[no-untyped-def]
            inside = Inside(conv_weight, conv_bias, dt_bias, A, D, norm_weight, groups, 16, 1e-5)
            return form(projected, inside, tail, state, resets_BL)

        return layer

    def plain(projected, inside, tail, state, resets):  # type: ignore[no-untyped-def]
        return mamba2.mix(projected, inside, tail_BSC=tail, initial_BHPN=state, resets_BL=resets)

    assert worst(run(mix_triton), run(plain), inputs, draw) < BOUND


def test_some_inputs_and_some_outputs(draw: Draw) -> None:
    """Gradients of the two states alone, for frozen parameters and a first state that wants none."""
    inputs = {"projected": draw(1, 18, 6 + 14 + 3), "weight": draw(14, 1, 4), "A": -torch.exp(draw(3))}
    fixed = {"bias": draw(14), "dt_bias": draw(3), "D": draw(3), "norm": draw(6), "tail": draw(1, 3, 14)}

    def run(form: Callable[..., Any], kind: torch.dtype) -> Callable[..., Any]:
        rest = {key: part.to(kind) for key, part in fixed.items()}

        def states(projected: Tensor, weight: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
            inside = Inside(weight, rest["bias"], rest["dt_bias"], A, rest["D"], rest["norm"], 1, 16, 1e-5)
            return form(projected, inside, rest["tail"])[1:]

        return states

    def ours(projected: Tensor, inside: Inside, tail: Tensor) -> tuple[Tensor, ...]:
        return mix_triton(projected, inside, tail, None, None)

    def plain(projected: Tensor, inside: Inside, tail: Tensor) -> tuple[Tensor, ...]:
        return mamba2.mix(projected, inside, tail_BSC=tail)

    assert worst(run(ours, torch.float32), run(plain, torch.float64), inputs, draw) < BOUND


def mixer_of(draw: Draw) -> torch.nn.Module:
    sizes = Mamba2(state_size=4, head_size=8, groups=2, chunk=16)
    mixer = LanguageModel(ModelConfig(pattern="M", hidden_size=16, mamba2=sizes), 8).stack[0].mixer
    for parameter in mixer.parameters():
        parameter.data = draw(*parameter.shape) / 4
    return mixer


def test_layer_keeps_its_projection_and_outputs(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the whole mixer saves for the backward pass, in numbers a token; and it is the mixer of the plain form."""
    mixer, tokens, inner = mixer_of(draw), 24, 32
    inputs_BLD = draw(1, tokens, 16)
    results, kept = [], {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for kernels in (False, True):
        monkeypatch.setattr(mamba2, "on_gpu", lambda x, kernels=kernels: kernels)
        kept.clear()
        leaf_BLD = inputs_BLD.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out_BLD = mixer(leaf_BLD)
        results.append([out_BLD, *torch.autograd.grad(out_BLD.square().sum(), [leaf_BLD, *mixer.parameters()])])
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    parameters = sum(parameter.nbytes for parameter in mixer.parameters())
    # The layer's input; z, x, B, C, dt; the scan's output and its norm; 1 / rms of two groups; A once more.
    expected = 4 * tokens * (16 + (2 * inner + 2 * 2 * 4 + 4) + 2 * inner + 2) + 4 * 8
    assert sum(kept.values()) <= expected + parameters


def test_layer_compiled_is_the_same(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """The joined operation as an operator of one graph, from packed documents."""
    monkeypatch.setattr(mamba2, "on_gpu", lambda x: True)
    mixer = mixer_of(draw)
    inputs_BLD, resets_BL = draw(1, 11, 16), draw(1, 11) > 1.0
    results = []
    for run in (mixer, torch.compile(mixer, backend="aot_eager", fullgraph=True)):
        leaf_BLD = inputs_BLD.clone().requires_grad_()
        out_BLD = run(leaf_BLD, None, resets_BL)
        results.append([out_BLD, *torch.autograd.grad(out_BLD.float().square().sum(), [leaf_BLD, *mixer.parameters()])])
    assert all(torch.equal(eager, graph) for eager, graph in zip(*results, strict=True))
