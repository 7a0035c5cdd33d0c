"""A model: a layer pattern and the sizes of its layers. Defaults are the paper's (arXiv 2406.07887)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sidewinder.config.base import Count, Share, Strict
from sidewinder.model.pattern import allocate, check_pattern


def near_divisors(number: int, wanted: int) -> str:
    """The divisors of a number just below and above a wanted one: `4 or 8`."""
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    near = [max(d for d in divisors if d <= wanted), *[d for d in divisors if d > wanted][:1]]
    return " or ".join(map(str, near))


class Rope(Strict):
    """Rotary position embedding on the first part of each attention head."""

    base: Annotated[float, Field(gt=0)] = 10_000.0
    """Wavelength base; an extension may raise it."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each head's channels that is rotated."""


class Attention(Strict):
    """Layers written `*`: causal attention with grouped keys and values."""

    heads: Count = 32
    """Query heads."""
    kv_heads: Count = 8
    """Key and value heads; `heads` must be a multiple."""
    head_size: Count = 128
    """Channels a head."""
    rope: Rope | None = None
    """Rotary positions; null for none, as in the paper's hybrid."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads: heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads}); "
                f"use {near_divisors(self.heads, self.kv_heads)}"
            )
        rotated = self.head_size * self.rope.fraction if self.rope else 2.0
        if int(rotated) % 2 or not 0 <= rotated - int(rotated) < 1e-6 < rotated:
            raise ValueError(
                f"rope.fraction: head_size x rope.fraction must be an even number of channels above 0, not "
                f"{rotated:g}; use a fraction of {self.head_size} channels that gives one, or another head_size"
            )
        return self


class Mlp(Strict):
    """Layers written `-`: two (or, gated, three) matrix products."""

    size: Count = 16_384
    """Inner width."""
    activation: Literal["gelu", "relu2", "swiglu"] = "gelu"
    """Exact GELU (paper's hybrid), squared ReLU or gated SiLU (paper's Transformers)."""


class Mamba2(Strict):
    """Layers written `M`: the state-space duality mixer."""

    state_size: Count = 128
    head_size: Count = 64
    groups: Count = 8
    """Groups of heads that share B and C; also the groups of the gated norm."""
    expand: Count = 2
    """Inner width over hidden size."""
    conv_width: Annotated[int, Field(ge=2)] = 4
    chunk: Count = 128
    """Tokens a chunk of the scan; contexts must be a multiple."""


class Mamba1(Strict):
    """Layers written `m`: the selective-scan mixer."""

    state_size: Count = 128
    expand: Count = 2
    conv_width: Annotated[int, Field(ge=2)] = 4
    dt_rank: Count | None = None
    """Rank of the step-size projection; null means hidden_size / 16, rounded up."""


class Allocation(Strict):
    """Layer shares from which the paper's rule makes a pattern (Appendix A, Algorithm 1)."""

    layers: Count
    attention: Share = 0.0
    mlp: Share = 0.0

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.attention + self.mlp > 1:
            raise ValueError(f"attention + mlp must not exceed 1, got {self.attention + self.mlp:g}")
        return self


class ModelConfig(Strict):
    """One architecture at one size."""

    pattern: str | None = None
    """One letter a layer: `M` Mamba-2, `m` Mamba-1, `*` attention, `-` MLP."""
    allocation: Allocation | None = None
    """Instead of a pattern: layer count and shares."""
    hidden_size: Count = 4096
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """`layernorm` has a zero-centred weight, as the paper's Transformer."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    init_std: Annotated[float, Field(gt=0)] = 0.02
    attention: Attention = Attention()
    mlp: Mlp = Mlp()
    mamba2: Mamba2 = Mamba2()
    mamba1: Mamba1 = Mamba1()

    @model_validator(mode="after")
    def _shape_is_possible(self) -> Self:
        if (self.pattern is None) == (self.allocation is None):
            raise ValueError("give exactly one of `pattern` and `allocation`")
        check_pattern(self.layers)
        if "M" in self.layers:
            inner = self.hidden_size * self.mamba2.expand
            if inner % self.mamba2.head_size:
                raise ValueError(
                    f"mamba2.head_size: head_size ({self.mamba2.head_size}) must divide hidden_size x expand ({inner})"
                    f"; use {near_divisors(inner, self.mamba2.head_size)}"
                )
            heads = inner // self.mamba2.head_size
            if heads % self.mamba2.groups:
                raise ValueError(
                    f"mamba2.groups: groups ({self.mamba2.groups}) must divide the {heads} heads that hidden_size x "
                    f"expand / head_size gives; use {near_divisors(heads, self.mamba2.groups)}"
                )
        return self

    @property
    def layers(self) -> str:
        """The layer pattern, whether given or allocated."""
        if self.pattern is not None:
            return self.pattern
        assert self.allocation is not None
        return allocate(self.allocation.layers, self.allocation.attention, self.allocation.mlp)
