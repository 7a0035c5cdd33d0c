"""What model a checkpoint holds: from the shapes of its tensors, Megatron's arguments, and both against each other.

Shapes cannot tell: heads, the activation, norm and rotary settings, and how Mamba-2's B and C rows part into groups and
states. Arguments that a file lacks take the value that Megatron's code then had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sidewinder.config.model import ModelConfig
from sidewinder.errors import CheckpointError
from sidewinder.imports.megatron.state import State

STATE_SIZE, GROUPS, CHUNK = 128, 8, 128
"""Constants of Megatron's mixer before March 2025, when the first two became arguments."""
GATED_NORM_EPS = 1e-5
NO_EQUAL = {
    "rotary_interleaved": "*",
    "rotary_seq_len_interpolation_factor": "*",
    "use_rope_scaling": "*",
    "no_rope_freq": "*",
    "window_size": "*",
    "apply_residual_connection_post_layernorm": "*-",
    "quick_geglu": "-",
}
"""Arguments that change what these layers compute, into what our layers do not."""


@dataclass(frozen=True)
class Described:
    """The model that the tensors belong to; `norm_shift` is what a stored norm weight lacks to be ours."""

    config: ModelConfig
    vocab_size: int
    context_tokens: int
    norm_shift: float


def describe(state: State, pattern: str) -> Described:
    """The model of a given pattern.

    Raises one CheckpointError with everything that is unknown, contradictory or has no equal here.
    """
    reader = _Reader(state, pattern)
    with reader.listing_problems():
        hidden = reader.hidden_size()
        sizes: dict[str, Any] = {"pattern": pattern, "hidden_size": hidden, **reader.norms(), "init_std": reader.std()}
        if "*" in pattern:
            sizes["attention"] = reader.attention(hidden)
        if "-" in pattern:
            sizes["mlp"] = reader.mlp()
        if "M" in pattern:
            sizes["mamba2"] = reader.mamba2(hidden)
        vocab_size, context_tokens = reader.vocabulary(), reader.context_tokens()
        reader.check_no_equal()
    try:
        config = ModelConfig.model_validate(sizes)
    except ValidationError as error:
        raise CheckpointError(
            f"{state.folder} holds a model that cannot be: {'; '.join(one['msg'] for one in error.errors())}",
            remedy="the checkpoint is damaged, or of another kind",
        ) from error
    return Described(config, vocab_size, context_tokens, reader.norm_shift(config.norm))


class _Reader:
    def __init__(self, state: State, pattern: str) -> None:
        self.state, self.pattern, self.told = state, pattern, state.arguments
        self.ranks = state.tensor_parallel
        self.problems: list[str] = []

    @contextmanager
    def listing_problems(self) -> Iterator[None]:
        yield
        if self.problems:
            listed = "\n    ".join(self.problems)
            raise CheckpointError(
                f"{self.state.folder} does not tell of one model that can be imported:\n    {listed}",
                remedy="fetch the checkpoint again if it should be whole; otherwise it has no equal here",
            )

    def settle(self, name: str, found: int | None, told: int | None, otherwise: int | None = None) -> int:
        """What the tensors say, which the arguments must not contradict; else the arguments; else `otherwise`."""
        if found is not None and told is not None and found != told:
            self.problems.append(f"{name}: {told} after the arguments, {found} after the tensors")
        for value in (found, told, otherwise):
            if value is not None and value > 0:
                return value
        self.problems.append(f"{name}: neither the arguments nor the tensors tell it")
        return 1

    def divided(self, name: str, whole: int, part: int) -> int:
        if whole % part or not whole:
            self.problems.append(f"{name}: {whole} is not a multiple of {part}")
        return max(1, whole // part)

    def shared(self, name: str, count: int) -> int:
        """A count that tensor-parallel ranks share evenly."""
        if count % self.ranks:
            self.problems.append(f"{name}: {count} cannot be shared by {self.ranks} tensor-parallel ranks")
        return count

    def across(self, dimension: int, *names: str) -> int | None:
        """A length that the ranks share, over all ranks."""
        found = self.state.common(dimension, *names)
        return None if found is None else found * self.ranks

    def hidden_size(self) -> int:
        copied = (
            *("norm.weight", "mixer.in_proj.layer_norm_weight", "input_layernorm.weight", "pre_mlp_layernorm.weight"),
            *("self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight"),
            *("decoder.final_norm.weight", "decoder.final_layernorm.weight"),
        )
        return self.settle("hidden_size", self.state.common(0, *copied), self.told.whole("hidden_size"))

    def norms(self) -> dict[str, Any]:
        kinds = {"RMSNorm": "rmsnorm", "LayerNorm": "layernorm"}
        kind = self.told.text("normalization") or "LayerNorm"
        if kind not in kinds:
            self.problems.append(f"normalization: {kind}; only {' and '.join(kinds)} are known")
        eps = self.told.number("norm_epsilon") or self.told.number("layernorm_epsilon") or 1e-5
        if "M" in self.pattern and eps != GATED_NORM_EPS:
            self.problems.append(f"norm_epsilon: {eps:g}; with Mamba-2 only {GATED_NORM_EPS:g}, that of its gated norm")
        return {"norm": kinds.get(kind, "layernorm"), "norm_eps": eps}

    def norm_shift(self, norm: str) -> float:
        """Ours are zero-centred for LayerNorm and not for RMSNorm; Megatron's where `apply_layernorm_1p` says so."""
        centred = bool(self.told.flag("apply_layernorm_1p"))
        return float(centred) - float(norm == "layernorm")

    def std(self) -> float:
        return self.told.number("init_method_std") or 0.02

    def attention(self, hidden: int) -> dict[str, Any]:
        told = self.told
        heads = self.settle("num_attention_heads", None, told.whole("num_attention_heads"))
        projected = self.across(1, "self_attention.linear_proj.weight")
        found = None if projected is None else self.divided("kv_channels", projected, heads)
        head_size = self.settle("kv_channels", found, told.whole("kv_channels"), hidden // heads)
        rows = self.across(0, "self_attention.linear_qkv.weight")
        groups = None if rows is None else self.divided("linear_qkv rows", rows, head_size) - heads
        groups = None if groups is None else self.divided("linear_qkv rows without queries", max(0, groups), 2)
        grouped = told.flag("group_query_attention")
        told_groups = told.whole("num_query_groups") if grouped else (heads if grouped is False else None)
        kv_heads = self.shared("num_query_groups", self.settle("num_query_groups", groups, told_groups))
        return {"heads": heads, "kv_heads": kv_heads, "head_size": head_size, "rope": self.rope()}

    def rope(self) -> dict[str, float] | None:
        """Absolute positions would be a tensor of their own, which is then told as an extra one."""
        kind = self.told.text("position_embedding_type") or "learned_absolute"
        if kind in ("none", "learned_absolute"):
            return None
        if kind != "rope":
            self.problems.append(f"position_embedding_type: {kind}; only rope and none are known")
        base, fraction = self.told.number("rotary_base"), self.told.number("rotary_percent")
        return {"base": 10_000.0 if base is None else base, "fraction": 1.0 if fraction is None else fraction}

    def mlp(self) -> dict[str, Any]:
        inner = self.across(1, "mlp.linear_fc2.weight")
        size = self.shared("ffn_hidden_size", self.settle("ffn_hidden_size", inner, self.told.whole("ffn_hidden_size")))
        swiglu, squared_relu = self.told.flag("swiglu"), self.told.flag("squared_relu")
        rows = self.across(0, "mlp.linear_fc1.weight")
        if rows not in (None, 2 * size if swiglu else size):
            self.problems.append(f"linear_fc1: {rows} rows for width {size}, where swiglu is {bool(swiglu)}")
        if swiglu:
            return {"size": size, "activation": "swiglu"}
        if squared_relu is None and "M" not in self.pattern:
            self.problems.append("squared_relu: missing, so a Transformer's activation is not known")
        return {"size": size, "activation": "relu2" if squared_relu else "gelu"}

    def mamba2(self, hidden: int) -> dict[str, Any]:
        told = self.told
        inner = self.settle("Mamba-2 inner width", self.across(1, "mixer.out_proj.weight"), None)
        heads = self.settle("Mamba-2 heads", self.across(0, "mixer.A_log", "mixer.D"), told.whole("mamba_num_heads"))
        head_size = self.divided("mamba_head_dim", inner, heads)
        self.settle("mamba_head_dim", head_size, told.whole("mamba_head_dim"))
        convolved = self.settle("conv1d channels", self.across(0, "mixer.conv1d.weight"), None)
        both = self.divided("conv1d channels of B and C", max(0, convolved - inner), 2)
        groups, state_size = told.whole("mamba_num_groups"), told.whole("mamba_state_dim")
        if groups is None and state_size is None:
            groups, state_size = GROUPS, STATE_SIZE
        elif groups is None or state_size is None:
            groups = groups or self.divided("conv1d channels of B", both, state_size or 1)
            state_size = state_size or self.divided("conv1d channels of B", both, groups)
        if groups * state_size != both:
            self.problems.append(f"mixer.conv1d: {both} channels of B, but {groups} groups of {state_size} states")
        return {
            "state_size": state_size,
            "head_size": head_size,
            "groups": self.shared("mamba_num_groups", groups),
            "expand": self.divided("Mamba-2 inner width", inner, hidden),
            "conv_width": self.settle("conv1d width", self.state.common(2, "mixer.conv1d.weight"), None),
            "chunk": CHUNK,
        }

    def vocabulary(self) -> int:
        """Rows of the embedding, padding included: only they make the tensors what they are."""
        if self.told.flag("untie_embeddings_and_output_weights") is False:
            self.problems.append("untie_embeddings_and_output_weights: False; our models have a head of their own")
        told, rows = self.told.whole("padded_vocab_size"), self.across(0, "embedding.word_embeddings.weight")
        return self.shared("padded_vocab_size", self.settle("padded_vocab_size", None if told else rows, told))

    def context_tokens(self) -> int:
        told = self.told.whole("seq_length") or self.told.whole("max_position_embeddings")
        return self.settle("seq_length", None, told)

    def check_no_equal(self) -> None:
        for name, letters in NO_EQUAL.items():
            if set(letters) & set(self.pattern) and self.told.is_set(name):
                self.problems.append(f"{self.told.shown(name)} changes what the layers compute, and has no equal here")
