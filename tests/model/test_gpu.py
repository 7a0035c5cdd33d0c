"""The models on a GPU, kernels and all, against the same weights on the CPU in float64."""

from __future__ import annotations

import copy

import pytest
import torch

from sidewinder.config.model import Allocation, Attention, Mamba1, Mamba2, Mlp, ModelConfig, Rope
from sidewinder.model import LanguageModel, init_weights
from sidewinder.model.attention import attend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

VOCAB = 512
SSM = Mamba2(state_size=64, head_size=32, groups=2, chunk=64)
MODELS = {
    "transformer": ModelConfig(
        pattern="*-*-*-",
        hidden_size=128,
        norm="layernorm",
        attention=Attention(heads=4, kv_heads=4, head_size=32, rope=Rope()),
        mlp=Mlp(size=512, activation="relu2"),
    ),
    "mamba": ModelConfig(pattern="mmm", hidden_size=128, mamba1=Mamba1(state_size=16)),
    "mamba2": ModelConfig(pattern="MMM", hidden_size=128, mamba2=SSM),
    "hybrid": ModelConfig(
        allocation=Allocation(layers=14, attention=0.08, mlp=0.5),
        hidden_size=128,
        mamba2=SSM,
        attention=Attention(heads=4, kv_heads=2, head_size=32),
        mlp=Mlp(size=512),
    ),
}
TOLERANCE = 2e-5


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    return ((out.double().cpu() - reference).norm() / reference.norm()).item()


def make(name: str) -> tuple[LanguageModel, LanguageModel]:
    model = LanguageModel(MODELS[name], VOCAB)
    init_weights(model, 1)
    return model.double(), copy.deepcopy(model).float().cuda()


def tokens_of(batch: int, length: int) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("length", [64, 200, 1024])
@pytest.mark.parametrize("name", MODELS)
def test_logits_loss_and_gradients(name: str, length: int) -> None:
    reference, model = make(name)
    tokens, targets = tokens_of(2, length), tokens_of(2, length).roll(1, 1)
    assert relative_error(model(tokens.cuda()), reference(tokens)) < TOLERANCE
    loss = reference.loss(tokens, targets)
    on_gpu = model.loss(tokens.cuda(), targets.cuda())
    assert on_gpu.item() == pytest.approx(loss.item(), rel=1e-3)
    loss.backward()
    on_gpu.backward()
    for (key, expected), found in zip(reference.named_parameters(), model.parameters(), strict=True):
        assert expected.grad is not None
        assert found.grad is not None
        assert relative_error(found.grad, expected.grad) < 10 * TOLERANCE, key


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_training_step_is_near(name: str) -> None:
    reference, model = make(name)
    tokens, targets = tokens_of(2, 256), tokens_of(2, 256).roll(1, 1)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model.loss(tokens.cuda(), targets.cuda())
    loss.backward()
    assert loss.item() == pytest.approx(reference.loss(tokens, targets).item(), rel=5e-3)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_weights_in_bfloat16_are_near(name: str) -> None:
    """As evaluation loads them; the reference has the same rounded weights. A CPU is 0.006 to 0.012 away."""
    _, model = make(name)
    reference = copy.deepcopy(model.bfloat16()).double().cpu()
    tokens = tokens_of(2, 1024)
    assert relative_error(model(tokens.cuda()), reference(tokens)) < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_packed_documents_are_as_alone(name: str) -> None:
    _, model = make(name)
    parts = [tokens_of(1, length).cuda() for length in (70, 1, 133)]
    packed = torch.cat(parts, dim=1)
    resets = torch.zeros_like(packed, dtype=torch.bool)
    resets[0, [0, 70, 71]] = True
    with torch.no_grad():
        together = model(packed, resets_BL=resets)
        alone = torch.cat([model(part) for part in parts], dim=1)
    assert relative_error(together, alone.double().cpu()) < TOLERANCE


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("lengths", [[1024], [300, 1, 1, 723, 1000, 24]])
def test_attention_of_documents_in_half_precision(lengths: list[int], kv_heads: int) -> None:
    """Both sequences of two hold such documents; reference: each document alone, in float64."""
    generator = torch.Generator().manual_seed(1)
    length = sum(lengths)
    heads = (4, kv_heads, kv_heads, 4)
    q, k, v, d_out = (torch.randn(2, count, length, 64, generator=generator).bfloat16() for count in heads)
    given = [part.double().requires_grad_() for part in (q, k, v)]
    documents = [attend(*parts) for parts in zip(*(part.split(lengths, dim=2) for part in given), strict=True)]
    expected = torch.cat(documents, dim=2)
    age = torch.cat([torch.arange(each) for each in lengths]).expand(2, length).cuda()
    on_gpu = [part.cuda().requires_grad_() for part in (q, k, v)]
    out = attend(*on_gpu, age)
    assert relative_error(out, expected.detach()) < 0.01
    references = torch.autograd.grad(expected, given, d_out.double())
    for found, reference in zip(torch.autograd.grad(out, on_gpu, d_out.cuda()), references, strict=True):
        assert relative_error(found, reference) < 0.01


def test_gradients_of_masked_attention_are_finite() -> None:
    """Where all scores of every query are near -120 and 64 keys are left over, cuDNN's gradient of q was NaN.

    One key more than queries, as with context parallelism, is what takes a mask.
    """
    generator = torch.Generator().manual_seed(1)
    q, k, v, d_out = (torch.randn(1, heads, 704, 64, generator=generator) for heads in (2, 1, 1, 2))
    q, k = 0.1 * q, 0.1 * k
    q[..., 0], k[..., 0] = 1.0, -120 * 8
    q, d_out, age = q[:, :, 1:], d_out[:, :, 1:], torch.arange(1, 704)[None]
    gradients = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        given = [part.bfloat16().to(device, dtype).requires_grad_() for part in (q, k, v)]
        out = attend(*given, age.to(device))
        gradients.append(torch.autograd.grad(out, given, d_out.bfloat16().to(device, dtype)))
    assert all(found.isfinite().all() for found in gradients[1])
    for reference, found in zip(*gradients, strict=True):
        # The first channel's gradient of q is a difference of large sums, of which bfloat16 leaves nothing.
        assert relative_error(found[..., 1:], reference[..., 1:]) < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_decoding_is_the_full_pass(name: str) -> None:
    _, model = make(name)
    tokens = tokens_of(2, 300).cuda()
    with torch.no_grad():
        full = model(tokens)
        cache = model.new_cache(2)
        pieces = [model.logits(model.hidden(piece, cache)) for piece in (tokens[:, :37], *tokens[:, 37:].split(1, 1))]
    assert relative_error(torch.cat(pieces, dim=1), full.double().cpu()) < TOLERANCE
