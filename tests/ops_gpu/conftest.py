"""Each GPU form against the float64 reference: draws inputs, compares outputs and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Compare = Callable[..., None]

LENGTHS = (1, 2, 3, 64, 129, 1000, 4097)
FLAGS = ((False, False), (True, False), (False, True), (True, True))
CASES = [(length, *flags) for length in LENGTHS for flags in (FLAGS if length < 1000 else FLAGS[::3])]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        names = [f"{n}{'-initial' if i else ''}{'-resets' if r else ''}" for n, i, r in CASES]
        metafunc.parametrize("case", CASES, ids=names)
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def relative_error(out: Tensor, reference: Tensor) -> float:
    """‖out − reference‖ / ‖reference‖; the norm of `out` where the reference is zero."""
    size = reference.norm()
    return ((out.double() - reference).norm() / (size if size > 0 else 1)).item()


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """Normal numbers on the GPU, seeded by the test's name."""
    seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(request.node.name))
    generator = torch.Generator("cuda").manual_seed(seed)

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cuda").to(dtype)

    return normal


@pytest.fixture
def resets(draw: Callable[..., Tensor]) -> Callable[[int, int, bool], Tensor | None]:
    """Documents of about 40 tokens; the first row begins with a document, the others go on with one."""

    def make(batch: int, length: int, wanted: bool) -> Tensor | None:
        if not wanted:
            return None
        starts_BL = draw(batch, length) > 2.0
        starts_BL[0, 0] = True
        return starts_BL

    return make


@pytest.fixture
def compare(draw: Callable[..., Tensor]) -> Compare:
    """Runs a form and its reference on the same inputs, with random gradients of every output, bounds each error."""

    def check(
        form: Callable[..., object],
        reference: Callable[..., object],
        inputs: dict[str, Tensor],
        options: dict[str, object],
        bound: float,
    ) -> None:
        ours = {key: value.detach().requires_grad_() for key, value in inputs.items()}
        # On the processor: thousands of tiny steps are launched faster there.
        exact = {key: value.detach().double().cpu().requires_grad_() for key, value in inputs.items()}
        exact_options = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in options.items()}
        outputs, expected = form(**ours, **options), reference(**exact, **exact_options)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        expected = expected if isinstance(expected, tuple) else (expected,)
        d_outputs = [draw(*out.shape, dtype=out.dtype) if out.dim() else torch.ones_like(out) for out in outputs]
        gradients = torch.autograd.grad(outputs, list(ours.values()), d_outputs)
        d_expected = [d_out.double().cpu() for d_out in d_outputs]
        wanted = torch.autograd.grad(expected, list(exact.values()), d_expected, allow_unused=True)
        found = {f"output {place}": pair for place, pair in enumerate(zip(outputs, expected, strict=True))}
        for key, ours_gradient, gradient in zip(inputs, gradients, wanted, strict=True):
            found[f"d {key}"] = (ours_gradient, torch.zeros_like(exact[key]) if gradient is None else gradient)
        errors = {
            key: relative_error(out.detach().cpu(), exact_out.detach()) for key, (out, exact_out) in found.items()
        }
        assert all(error <= bound for error in errors.values()), errors

    return check
