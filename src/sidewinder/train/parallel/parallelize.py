"""A model on the mesh. The order matters:

1. context: mixers learn of their stretch; no parameter changes.
2. tensor: matrices become shards over `tensor`; what follows must see those.
3. recompute: part of what a layer does, so inside anything that wraps the layer.
4. compile: each layer by itself, with its recomputation, but without FSDP's hooks, which are not for the compiler.
5. FSDP: shards every matrix over `shard` and `context` on top of `tensor`, layer by layer, last of all.

Matrices are sharded. Everything else is small, stays whole and in float32 on every process, and its gradients are
summed in one message a step (`gradients`).
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard

from sidewinder.config.model import ModelConfig
from sidewinder.config.training import Training
from sidewinder.model import LanguageModel
from sidewinder.model.mamba1 import Mamba1
from sidewinder.model.mamba2 import Mamba2
from sidewinder.model.parts import Embedding, Linear
from sidewinder.train.float8 import use_float8
from sidewinder.train.parallel.context import divide_sequences
from sidewinder.train.parallel.tensor import divide_layers
from sidewinder.train.parallel.world import World

FEWEST_BYTES_TYPE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parallelize(
    config: ModelConfig, vocab_size: int, training: Training, world: World, device: torch.device
) -> LanguageModel:
    """A model of this shape, spread over the processes of `world`; its values are yet to be stored (`weights`)."""
    if world.device_mesh is None:
        model = LanguageModel(config, vocab_size).to(device)
        prepare_layers(model, training)
        return model
    with torch.device("meta"):
        model = LanguageModel(config, vocab_size)
    if world.mesh.context > 1:
        divide_sequences(model, world.device_mesh["context"])
    if world.mesh.tensor > 1:
        divide_layers(model, world.device_mesh["tensor"])
    prepare_layers(model, training)
    _shard_weights(model, training, world)
    model.to_empty(device=device)
    return model


def prepare_layers(model: LanguageModel, training: Training) -> None:
    """Float8 products; recomputation and compilation, layer by layer. Raises what `use_float8` raises."""
    if training.float8 != "none":
        use_float8(model, training)
    for letter, layer in zip(model.config.layers, model.stack, strict=True):
        layer.recompute = letter in training.recompute
        if training.compile:
            layer.compile()


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are sharded, by name: weights of linear layers, embedding and head."""
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, Linear | Embedding)
    }


def _shard_weights(model: LanguageModel, training: Training, world: World) -> None:
    """FSDP around each layer, the embedding, the head and the whole.

    Layers are sharded over `shard` and `context`. Embedding and head work on tokens, of which each process has other
    ones even along `tensor`, so they are sharded over all three.
    """
    sharded = {id(parameter) for parameter in matrices(model).values()}
    whole = {parameter for parameter in model.parameters() if id(parameter) not in sharded}
    # A warning of additions in place to what a layer returns; nothing here makes any.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    layers_mesh = world.over("shard", "context")
    tokens_mesh = world.over("shard", "context", "tensor")
    policy = MixedPrecisionPolicy(
        param_dtype=FEWEST_BYTES_TYPE[training.precision], reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    # The embedding's rows are the residual stream's first values, which stays in float32.
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    scans = [layer.mixer for layer in model.stack if isinstance(layer.mixer, Mamba1 | Mamba2)]
    by_columns = {id(mixer.in_proj.weight) for mixer in scans}

    def dimension(parameter: nn.Parameter) -> Shard:
        """Segments of rows must stay whole, so that a checkpoint can name them: `in_proj` is cut by columns."""
        return Shard(1) if id(parameter) in by_columns else Shard(0)

    for layer in model.stack:
        fully_shard(layer, mesh=layers_mesh, mp_policy=policy, shard_placement_fn=dimension, ignored_params=whole)
    fully_shard(model.embedding, mesh=tokens_mesh, mp_policy=exact)
    fully_shard(model.head, mesh=tokens_mesh, mp_policy=policy)
    fully_shard(model, mesh=layers_mesh, mp_policy=policy, ignored_params=whole)
    register_fsdp_forward_method(model, "loss")
    register_fsdp_forward_method(model.head, "loss")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is divided by the number of processes already, so gradients are sums. Gloo knows no other way.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
