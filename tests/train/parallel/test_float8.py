"""Float8 products: how far off they are, where they go, and that a model trains with them, alone and on a mesh.

The casts are real, the products emulated. Bounds are what three bits of mantissa allow: about 4 % of a product, 6 %
where one factor has two bits only. Bfloat16 errs by 0.3 %.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

pytest.importorskip("torchao")
sys.path.insert(0, str(Path(__file__).parent))
import ranks
from cases import Made, model_config, training_of
from test_meshes import run_ranks

from sidewinder.config.mesh import Mesh
from sidewinder.config.training import Training
from sidewinder.errors import ConfigError
from sidewinder.model import LanguageModel, init_weights
from sidewinder.model.parts import Linear, Product
from sidewinder.ops.linear import linear
from sidewinder.train.float8 import make_product
from sidewinder.train.loop import Trainer
from sidewinder.train.metrics import read_metrics
from sidewinder.train.parallel.parallelize import prepare_layers
from sidewinder.train.parallel.tensor import divide_layers
from sidewinder.train.parallel.world import World

WIDE: dict[str, Any] = {  # Sizes that fit, halved as well.
    "hidden_size": 32,
    "attention": {"heads": 4, "kv_heads": 2, "head_size": 16},
    "mlp": {"size": 64},
    "mamba1": {"state_size": 4, "dt_rank": 16},
    "mamba2": {"state_size": 16, "head_size": 2, "groups": 2, "chunk": 8},
}
ERRORS = {  # Of output, gradient of the input, gradient of the weight.
    "tensorwise": (0.045, 0.07, 0.07),
    "rowwise": (0.045, 0.045, 0.045),
    "rowwise_with_gw_hp": (0.045, 0.045, 0.004),
}
FLOAT8 = {"precision": "bfloat16", "float8": "rowwise_with_gw_hp"}


def training(**settings: Any) -> Training:
    return training_of({"training": {"budget_tokens": 20 * 8 * 32, **FLOAT8, **settings}}, Mesh())


def model(pattern: str = "mM*-", settings: Training | None = None, **sizes: Any) -> LanguageModel:
    """A small model with first values, prepared for training where settings are given."""
    made = LanguageModel(model_config({"architecture": "hybrid", "sizes": WIDE | sizes | {"pattern": pattern}}), 61)
    init_weights(made, 3)
    if settings:
        prepare_layers(made, settings)
    return made


def in_float8(made: LanguageModel) -> set[str]:
    return {name for name, part in made.named_modules() if isinstance(part, Linear) and part.product is not linear}


def product_and_gradients(product: Product, *, exact: bool = False) -> list[Tensor]:
    """Output and both gradients for made factors, the input's size varying from token to token."""
    generator = torch.Generator().manual_seed(1)
    x_BLI, g_BLO, W_OI = (torch.randn(shape, generator=generator) for shape in ((2, 32, 64), (2, 32, 48), (48, 64)))
    x_BLI *= torch.linspace(0.1, 10, 64).reshape(2, 32, 1)
    kind = torch.float64 if exact else torch.float32
    x_BLI, W_OI, b_O = (part.to(kind).requires_grad_() for part in (x_BLI, W_OI, torch.ones(48)))
    with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
        y_BLO = product(x_BLI, W_OI, b_O)
    assert exact or y_BLO.dtype == torch.bfloat16
    y_BLO.backward(g_BLO.to(y_BLO.dtype))
    assert x_BLI.grad is not None
    assert W_OI.grad is not None
    assert W_OI.grad.dtype == kind
    assert b_O.grad is not None
    return [y_BLO.detach().double(), x_BLI.grad.double(), W_OI.grad.double()]


def errors(found: list[Tensor]) -> list[float]:
    expected = product_and_gradients(F.linear, exact=True)
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, expected, strict=True)]


@pytest.mark.parametrize("recipe", ERRORS)
def test_errors_are_those_of_float8(recipe: str) -> None:
    found = product_and_gradients(make_product(recipe, emulate=True))
    for error, bound in zip(errors(found), ERRORS[recipe], strict=True):
        assert bound / 3 < error < bound  # Less would be another precision.


@pytest.mark.parametrize("recipe", ERRORS)
def test_the_compiler_takes_a_product_as_a_whole(recipe: str) -> None:
    torch.compiler.reset()
    product = make_product(recipe, emulate=True)
    compiled = torch.compile(product, backend="aot_eager", fullgraph=True)
    for found, expected in zip(product_and_gradients(compiled), product_and_gradients(product), strict=True):
        torch.testing.assert_close(found, expected)


def test_which_layers_multiply_in_float8(capsys: pytest.CaptureFixture[str]) -> None:
    made, plain = model(settings=training()), model()
    assert in_float8(made) == {
        *("layers.0.mixer.in_proj", "layers.0.mixer.out_proj", "layers.1.mixer.in_proj", "layers.1.mixer.out_proj"),
        *(f"layers.2.mixer.{letter}_proj" for letter in "qkvo"),
        *("layers.3.mixer.up_proj", "layers.3.mixer.down_proj"),
    }
    assert capsys.readouterr().err == ""
    assert in_float8(plain) == set()
    for (name, value), (plain_name, plain_value) in zip(
        made.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert (name, value.dtype) == (plain_name, plain_value.dtype)
        assert torch.equal(value, plain_value)


def test_layers_of_other_sizes_stay_in_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    made = model("-*-", training(), mlp={"size": 40})
    assert in_float8(made) == {f"layers.1.mixer.{letter}_proj" for letter in "qkvo"}
    said = capsys.readouterr().err
    assert "2 x up_proj (40 x 32), 2 x down_proj (32 x 40)" in said
    assert "multiples of 16" in said


def test_sizes_are_those_of_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        made = model("*-", mlp={"size": 48})
        divide_layers(made, init_device_mesh("cpu", (2,)))
        prepare_layers(made, training())
    finally:
        dist.destroy_process_group()
    assert in_float8(made) == {f"layers.0.mixer.{letter}_proj" for letter in "qkvo"}
    assert "1 x up_proj (24 x 32), 1 x down_proj (32 x 24)" in capsys.readouterr().err


def test_no_layer_that_fits_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no linear layer fits: 1 x up_proj \(40 x 32\)"):
        model("-", training(), mlp={"size": 40})


def test_absent_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(ConfigError, match=r"needs torchao 0.18 or newer(.|\n)*remedy: pip install 'torchao>=0.18'"):
        model(settings=training())


def test_old_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torchao-0.17.0.dist-info").mkdir()
    (tmp_path / "torchao-0.17.0.dist-info" / "METADATA").write_text("Name: torchao\nVersion: 0.17.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"0.18 or newer \(torchao 0.17.0 is installed\)"):
        make_product("rowwise", emulate=True)


def test_gpu_without_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100")
    with pytest.raises(ConfigError, match=r"NVIDIA A100 has no float8 \(compute capability 8.0, at least 8.9"):
        model(settings=training())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "float32"}, "needs precision bfloat16, not float32"),
        ({"context_tokens": 40}, r"multiples of 16, not context_tokens \(40\) / mesh.context \(1\)"),
        ({"float8": "blockwise"}, "tensorwise"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        training(**settings)
    assert training(**FLOAT8 | settings | {"float8": "none"}).float8 == "none"


def losses(folder: Path, settings: Training) -> list[float]:
    """Losses of a training run."""
    made = model(settings=settings)
    Trainer("test", folder, "a" * 64, made, Made(settings.context_tokens), settings).run()
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl").steps]


def test_a_model_learns_as_in_bfloat16(tmp_path: Path) -> None:
    found = losses(tmp_path / "float8", training())
    expected = losses(tmp_path / "bfloat16", training(float8="none"))
    assert found[-1] < found[0] - 0.5
    assert found != expected
    assert found == pytest.approx(expected, abs=0.02)


def test_recomputed_layers_give_the_same(tmp_path: Path) -> None:
    found = losses(tmp_path / "again", training(recompute="mM*-", budget_tokens=3 * 8 * 32))
    assert found == losses(tmp_path / "kept", training(budget_tokens=3 * 8 * 32))


def test_meshes_train_as_one_process_does(tmp_path: Path) -> None:
    """Each token has its own scale, so the first gradient is the same but for bfloat16's rounding on every mesh."""
    entry = {"architecture": "hybrid", "sizes": WIDE | {"pattern": "mM*-"}, "training": FLOAT8}
    cases = {"data": {}, "tensor": {}, "context": {"recompute": "M-"}}
    run_ranks(
        2, {name: entry | {"mesh": {name: 2}, "training": FLOAT8 | more} for name, more in cases.items()}, tmp_path
    )
    ranks.train(entry, tmp_path / "alone", World())
    ranks.train(entry | {"training": {"precision": "bfloat16"}}, tmp_path / "bfloat16", World())
    rows = {name: json.loads((tmp_path / name / "rows.json").read_text()) for name in (*cases, "alone", "bfloat16")}
    (_, first_norm), *_ = rows["alone"]
    assert rows["bfloat16"][0][1] != pytest.approx(first_norm, rel=0.005)
    for name in cases:
        assert rows[name][0][1] == pytest.approx(first_norm, rel=0.003), name
        assert [loss for loss, _ in rows[name]] == pytest.approx([loss for loss, _ in rows["alone"]], abs=0.01), name
