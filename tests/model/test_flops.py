"""The FLOP formula against torch's own counter of what a forward and backward pass really computes.

The counter sees matrix products: every product with a weight, attention's two and their four in the backward pass. It
sees neither the short convolutions nor the scans' element-wise arithmetic, which are counted by hand here, and it sees
the products by which the chunked scans compute, which the formula leaves out.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sidewinder.config.model import Attention, Mamba1, Mamba2, Mlp, ModelConfig
from sidewinder.model import LanguageModel, flops_per_token, init_weights

VOCABULARY, SEQUENCES, LENGTH = 97, 2, 64
SIZES = ModelConfig(
    pattern="*",
    hidden_size=32,
    attention=Attention(heads=4, kv_heads=2, head_size=16),
    mlp=Mlp(size=48),
    mamba1=Mamba1(state_size=8),
    mamba2=Mamba2(state_size=16, head_size=16, groups=2, chunk=16),
)
INNER = 64
# Forward operations of a token in a layer that are no matrix products: the convolution (a product and a sum for each
# of 4 taps) over its channels, and 7 for each channel and state number of the scan.
BY_HAND = {"*": 0, "-": 0, "m": 8 * INNER + 7 * INNER * 8, "M": 8 * (INNER + 2 * 2 * 16) + 5 * INNER * 16}
ATTENTION = 2 * 2 * 4 * 16  # Queries with keys, weights with values: a product and a sum, 4 heads of 16.


def counted(pattern: str, **changes: object) -> tuple[ModelConfig, dict[str, float]]:
    """FLOPs a token by operation, of one training pass of a small model."""
    config = SIZES.model_copy(update={"pattern": pattern, **changes})
    model = LanguageModel(config, VOCABULARY)
    init_weights(model, seed=1)
    tokens_BL = torch.randint(VOCABULARY, (SEQUENCES, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    in_place = {torch.ops.aten.addmm_: lambda into, a, b, **_: 2 * a[0] * a[1] * b[1]}
    counter = FlopCounterMode(display=False, custom_mapping=in_place)
    with sdpa_kernel(SDPBackend.MATH), counter:
        model.loss(tokens_BL[:, :-1], tokens_BL[:, 1:]).backward()
    total = counter.get_flop_counts()["Global"]
    return config, {str(name): flops / (SEQUENCES * LENGTH) for name, flops in total.items()}


@pytest.mark.parametrize("pattern", ["*-*-", "mm", "MM", "M-*M-m", "-"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_products_with_weights(pattern: str, activation: str) -> None:
    config, by_operation = counted(pattern, mlp=Mlp(size=48, activation=activation))
    weights = sum(flops for name, flops in by_operation.items() if name != "aten.bmm")
    mixing = pattern.count("*") * ATTENTION * (LENGTH + 1) / 2 + sum(BY_HAND[letter] for letter in pattern)
    assert flops_per_token(config, VOCABULARY, LENGTH) == weights + 3 * mixing


def test_attention_counts_the_half_of_all_pairs_that_it_may_see() -> None:
    """The plain way computes all L x L pairs; a causal model needs L (L + 1) / 2 of them."""
    config, by_operation = counted("*-")
    assert by_operation["aten.bmm"] == 3 * ATTENTION * LENGTH
    growth = flops_per_token(config, VOCABULARY, 2 * LENGTH) - flops_per_token(config, VOCABULARY, LENGTH)
    assert growth == by_operation["aten.bmm"] / 2


def test_attention_counts_the_keys_of_its_own_document() -> None:
    """Two documents of half the length see, together, what their score matrices hold below the diagonal."""
    config, by_operation = counted("*-")
    half = LENGTH // 2
    whole = flops_per_token(config, VOCABULARY, LENGTH)
    halves = flops_per_token(config, VOCABULARY, LENGTH, keys=(half + 1) / 2)
    assert whole - halves == by_operation["aten.bmm"] / 4
