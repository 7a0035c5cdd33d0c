"""How a stage is spread over processes, one a GPU, and what speaks against it for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidewinder.config.base import Count, Strict

if TYPE_CHECKING:
    from sidewinder.config.model import ModelConfig


class Mesh(Strict):
    """Processes in each direction; their product is the number of processes. No result depends on it but by rounding.

    Neighbours in `tensor` talk most, so they come first on a node; then `context`, then `data`.
    """

    data: Count = 1
    """Parts of the batch; the weights and the optimizer's state are sharded over them (FSDP)."""
    replicas: Count = 1
    """Full copies of the weights among the `data` parts (hybrid sharding); 1 shards over all of them."""
    tensor: Count = 1
    """Parts of each layer's heads and widths (tensor parallelism, with sequence parallelism between the layers)."""
    context: Count = 1
    """Parts of each sequence, for long contexts."""

    @property
    def processes(self) -> int:
        return self.data * self.tensor * self.context

    @property
    def sequence_parts(self) -> int:
        """Into how many parts a sequence is cut between the layers."""
        return self.tensor * self.context


def misfits(
    mesh: Mesh, model: ModelConfig, *, batch_sequences: int, micro: int | None, context_tokens: int
) -> list[str]:
    """What cannot be divided as the mesh asks; empty where the model and its batch fit.

    `batch_sequences` are all sequences of a step, `micro` those of one forward pass of one process.
    """
    sizes = {
        "mesh.data": [("batch_sequences", batch_sequences)],
        "mesh.tensor": _divided_by_tensor(model),
        "mesh.tensor x mesh.context": [("context_tokens", context_tokens)],
    }
    parts = {
        "mesh.data": mesh.data,
        "mesh.tensor": mesh.tensor,
        "mesh.tensor x mesh.context": mesh.sequence_parts,
    }
    found = [
        f"{key} ({parts[key]}) must divide {name} ({size:,})"
        for key, listed in sizes.items()
        for name, size in listed
        if size % parts[key]
    ]
    shards = mesh.data // mesh.replicas * mesh.context
    if mesh.data % mesh.replicas:
        found.append(f"mesh.replicas ({mesh.replicas}) must divide mesh.data ({mesh.data})")
    elif set(model.layers) & set("mM") and model.hidden_size % shards:
        # Mamba's input projection is sharded by its columns, which must be of equal number.
        found.append(
            f"mesh.data / mesh.replicas x mesh.context ({shards}) must divide hidden_size ({model.hidden_size:,})"
        )
    if micro and batch_sequences % (mesh.data * micro):
        product = f"mesh.data x micro_batch_sequences ({mesh.data} x {micro})"
        found.append(f"{product} must divide batch_sequences ({batch_sequences:,})")
    return found


def _divided_by_tensor(model: ModelConfig) -> list[tuple[str, int]]:
    """Sizes of a model that tensor parallelism divides, for the kinds of layers that it has."""
    inner = model.hidden_size * model.mamba1.expand
    by_letter = {
        "*": [("attention.heads", model.attention.heads), ("attention.kv_heads", model.attention.kv_heads)],
        "-": [("mlp.size", model.mlp.size)],
        "m": [("the Mamba-1 inner width, hidden_size x expand", inner)],
        "M": [("mamba2.groups", model.mamba2.groups)],
    }
    return [size for letter, sizes in by_letter.items() if letter in model.layers for size in sizes]
