"""A differentiable GPU operation made of a forward and a backward function.

Run eagerly it is a torch.autograd.Function; under torch.compile it is a custom operator, which the compiler takes as a
whole. Called eagerly an operator would cost about 0.2 ms of the processor's time, more than some kernels take.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable

Function = Callable[..., Any]


class GpuFunction:
    """Callable with the arguments of `forward`, all positional.

    `remember(ctx, inputs, outputs)` saves what backward needs; `gradients(backward, ctx, *d_outputs)` calls `backward`
    with it and returns a gradient, or None, for each argument of `forward`. A gradient of an output that nothing used
    is None. The two functions ending in `shapes` give empty outputs of the right shapes and types.
    """

    def __init__(
        self,
        name: str,
        *,
        forward: Function,
        forward_shapes: Function,
        backward: Function,
        backward_shapes: Function,
        remember: Function,
        gradients: Function,
    ) -> None:
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.set_materialize_grads(False)
            remember(ctx, inputs, output)

        def eager_forward(ctx: Any, *inputs: Any) -> Any:
            output = forward(*inputs)
            setup_context(ctx, inputs, output)
            return output

        # Without a setup_context of its own: torch would look up the signature of `forward` at every call.
        eager_backward = once_differentiable(partial(gradients, backward))
        members = {"forward": staticmethod(eager_forward), "backward": staticmethod(eager_backward)}
        self._function: Any = type(name, (torch.autograd.Function,), members)
        self._operator = torch.library.custom_op(f"sidewinder::{name}", forward, mutates_args=())
        self._operator.register_fake(forward_shapes)
        backward_operator = torch.library.custom_op(f"sidewinder::{name}_backward", backward, mutates_args=())
        backward_operator.register_fake(backward_shapes)
        self._operator.register_autograd(partial(gradients, backward_operator), setup_context=setup_context)

    def __call__(self, *inputs: Any) -> Any:
        return self._operator(*inputs) if torch.compiler.is_compiling() else self._function.apply(*inputs)
