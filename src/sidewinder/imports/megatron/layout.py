"""How Megatron names, splits and orders the tensors of each layer, and which of ours each becomes.

Sizes follow section 7 of the facts on arXiv 2406.07887 and Megatron-LM at df61e60bf5 (June 2024) and 2edae2c4a5 (July
2024, which moved the Mamba pre-norm into the input projection).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sidewinder.config.model import ModelConfig
from sidewinder.imports.megatron.sizes import Described
from sidewinder.imports.megatron.state import State

Pick = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Entry:
    """One tensor of Megatron's: the names that its versions give it, its whole shape, how ranks share it, and ours.

    `axis` is the dimension that tensor-parallel ranks share, None where each has a copy. `segments` are lengths along
    it that are shared each on its own: a rank's slice is its part of the first, then its part of the second, and so on.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    makes: dict[str, Pick]
    axis: int | None = None
    segments: tuple[int, ...] = field(default=())

    def rank_shape(self, ranks: int) -> list[int]:
        """Shape of each rank's slice."""
        return [size // ranks if place == self.axis else size for place, size in enumerate(self.shape)]

    def on_meta(self, dtype: torch.dtype) -> Tensor:
        """A stand-in of this shape that holds no numbers."""
        return torch.empty(self.shape, dtype=dtype, device="meta")

    def join(self, slices: list[Tensor]) -> Tensor:
        """The whole tensor from the ranks' slices, in order of rank; copies must be equal (else ValueError)."""
        if self.axis is None:
            if not all(torch.equal(one, slices[0]) for one in slices[1:]):
                raise ValueError("the copies of tensor-parallel ranks differ")
            return slices[0]
        if len(slices) == 1:
            return slices[0]
        lengths = [length // len(slices) for length in self.segments or (self.shape[self.axis],)]
        parts = [one.split(lengths, dim=self.axis) for one in slices]
        return torch.cat([part for segment in zip(*parts, strict=True) for part in segment], dim=self.axis)


@dataclass(frozen=True)
class Source:
    """Where one of our tensors comes from."""

    stage: int
    name: str
    entry: Entry
    pick: Pick


@dataclass(frozen=True)
class Layout:
    """`sources` by our names; `entries[stage]` by Megatron's names: all tensors that the stage must have."""

    sources: dict[str, Source]
    entries: list[dict[str, Entry]]


def lay_out(state: State, stages: list[list[str]], model: Described) -> Layout:
    """The tensors of a described model. Of the names that versions differ in, those that a stage has are taken."""
    layout = Layout({}, [{} for _ in stages])
    place = 0
    for at, (letters, ranks) in enumerate(zip(stages, state.ranks, strict=True)):
        placed = [("", "", entry) for entry in _outer(model, first=at == 0, last=at == len(stages) - 1)]
        for index, kinds in enumerate(letters):
            for letter in kinds:
                within, ours = f"decoder.layers.{index}.", f"layers.{place}."
                placed += [(within, ours, entry) for entry in MAKERS[letter](model)]
                place += 1
        for within, ours, entry in placed:
            names = [within + name for name in entry.names]
            name = next((name for name in names if name in ranks[0].tensors), names[0])
            layout.entries[at][name] = entry
            layout.sources.update({ours + made: Source(at, name, entry, pick) for made, pick in entry.makes.items()})
    return layout


def _whole(tensor: Tensor) -> Tensor:
    return tensor


def _norm(model: Described, ours: str, *names: str) -> list[Entry]:
    """A norm's weight and, for LayerNorm, bias; every rank has a copy. Names come without these last words."""

    def scale(weight: Tensor) -> Tensor:
        return weight.float() + model.norm_shift if model.norm_shift else weight

    picks = {"weight": scale} | ({"bias": _whole} if model.config.norm == "layernorm" else {})
    shape = (model.config.hidden_size,)
    return [
        Entry(tuple(name + what for name in names), shape, {f"{ours}.{what}": pick}) for what, pick in picks.items()
    ]


def _outer(model: Described, *, first: bool, last: bool) -> list[Entry]:
    """Embedding in the first pipeline stage; final norm and head in the last."""
    table = (model.vocab_size, model.config.hidden_size)
    entries = [Entry(("embedding.word_embeddings.weight",), table, {"embedding.weight": _whole}, 0)] if first else []
    if last:
        entries += _norm(model, "final_norm", "decoder.final_norm.", "decoder.final_layernorm.")
        entries.append(Entry(("output_layer.weight",), table, {"head.weight": _whole}, 0))
    return entries


def _mamba2(model: Described) -> list[Entry]:
    """Rows of in_proj are z, x, B, C, dt; channels of conv1d x, B, C. B and C go to ranks by whole groups."""
    config, sizes = model.config, model.config.mamba2
    hidden, inner = config.hidden_size, config.hidden_size * sizes.expand
    both, heads = sizes.groups * sizes.state_size, inner // sizes.head_size
    projected, convolved = (inner, inner, both, both, heads), (inner, both, both)

    def own(name: str, shape: tuple[int, ...], axis: int, segments: tuple[int, ...] = ()) -> Entry:
        return Entry((f"mixer.{name}",), shape, {f"mixer.{name}": _whole}, axis, segments)

    return [
        *_norm(model, "norm", "norm.", "mixer.in_proj.layer_norm_"),
        own("in_proj.weight", (sum(projected), hidden), 0, projected),
        own("conv1d.weight", (sum(convolved), 1, sizes.conv_width), 0, convolved),
        own("conv1d.bias", (sum(convolved),), 0, convolved),
        *(own(name, (heads,), 0) for name in ("dt_bias", "A_log", "D")),
        own("norm.weight", (inner,), 0),
        own("out_proj.weight", (hidden, inner), 1),
    ]


def _attention(model: Described) -> list[Entry]:
    """Rows of linear_qkv go group by group: the group's query heads, its key head, its value head."""
    hidden, sizes = model.config.hidden_size, model.config.attention
    queries = sizes.heads // sizes.kv_heads

    def by_group(part: slice) -> Pick:
        return lambda rows: rows.unflatten(0, (sizes.kv_heads, queries + 2, sizes.head_size))[:, part].flatten(0, 2)

    rows = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_size
    makes = {
        "mixer.q_proj.weight": by_group(slice(queries)),
        "mixer.k_proj.weight": by_group(slice(queries, queries + 1)),
        "mixer.v_proj.weight": by_group(slice(queries + 1, queries + 2)),
    }
    within = "self_attention."
    return [
        *_norm(model, "norm", within + "linear_qkv.layer_norm_", "input_layernorm."),
        Entry((within + "linear_qkv.weight",), (rows, hidden), makes, 0),
        Entry(
            (within + "linear_proj.weight",),
            (hidden, sizes.heads * sizes.head_size),
            {"mixer.o_proj.weight": _whole},
            1,
        ),
    ]


def _mlp(model: Described) -> list[Entry]:
    """With SwiGLU, rows of linear_fc1 are the gate's, then the other factor's; a rank has its part of both."""
    hidden, size = model.config.hidden_size, model.config.mlp.size
    segments: tuple[int, ...] = (size,)
    makes: dict[str, Pick] = {"mixer.up_proj.weight": _whole}
    if model.config.mlp.activation == "swiglu":
        segments = (size, size)
        makes = {"mixer.gate_proj.weight": lambda rows: rows[:size], "mixer.up_proj.weight": lambda rows: rows[size:]}
    return [
        *_norm(model, "norm", "mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm."),
        Entry(("mlp.linear_fc1.weight",), (sum(segments), hidden), makes, 0, segments),
        Entry(("mlp.linear_fc2.weight",), (hidden, size), {"mixer.down_proj.weight": _whole}, 1),
    ]


MAKERS: dict[str, Callable[[Described], list[Entry]]] = {"M": _mamba2, "*": _attention, "-": _mlp}


def expected_shapes(config: ModelConfig, vocab_size: int) -> dict[str, list[int]]:
    """Shapes of all tensors of our model, which is made without memory."""
    from sidewinder.model.lm import LanguageModel

    with torch.device("meta"):
        return {name: list(tensor.shape) for name, tensor in LanguageModel(config, vocab_size).state_dict().items()}
