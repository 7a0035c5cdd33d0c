"""Float8 products on a GPU that has them: errors, the compiler, and a model that learns as in bfloat16."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("torchao")
sys.path.insert(0, str(Path(__file__).parent))
from cases import Made, model_config, training_of

from sidewinder.config.mesh import Mesh
from sidewinder.model import LanguageModel, init_weights
from sidewinder.model.parts import Linear, Product
from sidewinder.ops.linear import linear
from sidewinder.train.float8 import LOWEST_CAPABILITY, make_product
from sidewinder.train.loop import Trainer
from sidewinder.train.metrics import read_metrics
from sidewinder.train.parallel.parallelize import prepare_layers

HAS_FLOAT8 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= LOWEST_CAPABILITY
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_FLOAT8, reason="needs a GPU with float8")]
RECIPES = ("tensorwise", "rowwise", "rowwise_with_gw_hp")
BOUNDS = {"tensorwise": (0.045, 0.07, 0.07), "rowwise": (0.045,) * 3, "rowwise_with_gw_hp": (0.045, 0.045, 0.005)}
SIZES = {"mamba2": {"state_size": 32, "head_size": 16, "groups": 2, "chunk": 32}}


@pytest.mark.parametrize(("recipe", "compiled"), [*((recipe, False) for recipe in RECIPES), ("tensorwise", True)])
def test_errors_are_those_of_float8(recipe: str, compiled: bool) -> None:
    """Of output, gradient of the input and gradient of the weight, in the Frobenius norm, against float64."""
    torch.compiler.reset()
    product = make_product(recipe, emulate=False)
    found = results(torch.compile(product) if compiled else product, torch.float32)
    errors = [
        float((one - other).norm() / other.norm())
        for one, other in zip(found, results(F.linear, torch.float64), strict=True)
    ]
    print(recipe, compiled, *(f"{error:.2%}" for error in errors))
    for error, bound in zip(errors, BOUNDS[recipe], strict=True):
        assert bound / 4 < error < bound  # Less would be another precision.


def results(product: Product, kind: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_BLI, g_BLO, W_OI = (
        torch.randn(shape, generator=generator) for shape in ((2, 512, 256), (2, 512, 384), (384, 256))
    )
    x_BLI, W_OI = (part.to("cuda", kind).requires_grad_() for part in (x_BLI, W_OI))
    with torch.autocast("cuda", torch.bfloat16, enabled=kind != torch.float64):
        y_BLO = product(x_BLI, W_OI, None)
    y_BLO.backward(g_BLO.to("cuda", y_BLO.dtype))
    assert x_BLI.grad is not None
    assert W_OI.grad is not None
    return [y_BLO.detach().double(), x_BLI.grad.double(), W_OI.grad.double()]


def losses(folder: Path, **settings: object) -> list[float]:
    """Losses of a small hybrid, whose layers fit the GPU's kernels."""
    values = {"precision": "bfloat16", "context_tokens": 256, "budget_tokens": 20 * 8 * 256} | settings
    training = training_of({"training": values}, Mesh())
    model = LanguageModel(model_config({"architecture": "hybrid", "wide": True, "sizes": SIZES}), 61)
    init_weights(model, 3)
    prepare_layers(model, training)
    linears = [part for part in model.layers.modules() if isinstance(part, Linear)]
    assert all((part.product is linear) == (training.float8 == "none") for part in linears)
    Trainer("test", folder, "a" * 64, model, Made(training.context_tokens), training).run()
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl").steps]


@pytest.fixture(scope="module")
def in_bfloat16(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(tmp_path_factory.mktemp("bfloat16"))


EAGER, COMPILED = ({}, {"recompute": "M*-"}), ({"compile": True}, {"compile": True, "recompute": "M*-"})


@pytest.mark.parametrize(
    ("recipe", "more"),
    [(recipe, more) for recipe in RECIPES for more in EAGER] + [("tensorwise", more) for more in COMPILED],
)
def test_a_model_learns_as_in_bfloat16(
    recipe: str, more: dict[str, object], tmp_path: Path, in_bfloat16: list[float]
) -> None:
    torch.compiler.reset()
    found = losses(tmp_path, float8=recipe, **more)
    print(recipe, more, "largest difference", max(abs(a - b) for a, b in zip(found, in_bfloat16, strict=True)))
    assert found[-1] < found[0] - 0.5
    assert found != in_bfloat16
    assert found == pytest.approx(in_bfloat16, abs=0.05)


def test_the_same_bits_on_every_run(tmp_path: Path) -> None:
    settings = {"float8": "rowwise", "deterministic": True}
    try:
        assert losses(tmp_path / "one", **settings) == losses(tmp_path / "two", **settings)
    finally:
        torch.set_deterministic_debug_mode("default")
