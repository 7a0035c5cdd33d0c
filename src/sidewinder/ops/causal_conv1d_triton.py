"""The causal convolution of causal_conv1d.py on a GPU, by the Triton kernels of kernels/causal_conv1d.py.

Backward keeps the inputs alone. Gradients of weight and bias are summed a segment a program, then over the segments, so
results are the same bit for bit.
Shapes: B batch, L length, C channels, W width, S = W − 1 remembered inputs; P parts of the sums over tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from sidewinder.ops.dispatch import channels_together
from sidewinder.ops.gpu_function import Function, GpuFunction
from sidewinder.ops.kernels import causal_conv1d as kernels

ROWS = 8
"""Tokens loaded at once, so that several loads are under way while earlier tokens are computed."""
FORWARD_TOKENS, BACKWARD_TOKENS = 64, 128
"""Tokens that one program walks over. Shorter ones are more at once, but each reads S tokens of its neighbours again,
and backward also writes a part of the sums over tokens. Measured on an H200, as were the channels a thread."""
BYTES_A_THREAD = 8
"""Width of a thread's loads: with 16 the registers for backward leave too few threads at once."""


def _seen_at_end(resets_BL: Tensor, tokens: int) -> Tensor:
    """Which of the last `tokens` places (B, S) belong to the document of the last token."""
    tail_BS = resets_BL[:, -tokens:]
    tail_BS = F.pad(tail_BS, (tokens - tail_BS.shape[1], 0))
    later_BS = tail_BS.flip(1).cumsum(1).flip(1) - tail_BS.long()
    return later_BS == 0


def _block(channels: int, element_bytes: int) -> dict[str, int]:
    """Channels a program: four warps, fewer where there are fewer channels."""
    block = min(triton.next_power_of_2(channels), 128 * BYTES_A_THREAD // element_bytes)
    return {"ROWS": ROWS, "BLOCK": block, "num_warps": max(1, block * element_bytes // (32 * BYTES_A_THREAD))}


def conv_forward(
    x_BLC: Tensor, weight_C1W: Tensor, bias_C: Tensor, initial_BSC: Tensor | None, resets_BL: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """Outputs, and the last W − 1 inputs."""
    batch, length, channels = x_BLC.shape
    width = weight_C1W.shape[-1]
    y_BLC = torch.empty(batch, length, channels, dtype=x_BLC.dtype, device=x_BLC.device)
    start_BSC = x_BLC if initial_BSC is None else initial_BSC
    launch = _block(channels, x_BLC.element_size())
    kernels.forward_kernel[(triton.cdiv(channels, launch["BLOCK"]), triton.cdiv(length, FORWARD_TOKENS), batch)](
        x_BLC, weight_C1W, bias_C, start_BSC, resets_BL, y_BLC, length, channels, FORWARD_TOKENS,
        *x_BLC.stride()[:2], *start_BSC.stride()[:2],
        WIDTH=width, SILU=silu, HAS_INITIAL=initial_BSC is not None, **launch,
    )  # fmt: skip
    return y_BLC, _final(x_BLC, width - 1, initial_BSC, resets_BL)


def _final(x_BLC: Tensor, tokens: int, initial_BSC: Tensor | None, resets_BL: Tensor | None) -> Tensor:
    tail_BSC = x_BLC[:, max(0, x_BLC.shape[1] - tokens) :]
    missing = tokens - tail_BSC.shape[1]
    if missing:
        start_BSC = x_BLC.new_zeros(x_BLC.shape[0], tokens, x_BLC.shape[2]) if initial_BSC is None else initial_BSC
        tail_BSC = torch.cat([start_BSC[:, tokens - missing :].to(x_BLC.dtype), tail_BSC], dim=1)
    if resets_BL is not None:
        return tail_BSC * _seen_at_end(resets_BL, tokens)[..., None]
    return tail_BSC.clone(memory_format=torch.contiguous_format)


def conv_forward_shapes(x_BLC, weight_C1W, *_):  # type: ignore[no-untyped-def]
    """Empty results of `conv_forward`."""
    batch, _, channels = x_BLC.shape
    return x_BLC.new_empty(x_BLC.shape), x_BLC.new_empty(batch, weight_C1W.shape[-1] - 1, channels)


def conv_backward(
    dy_BLC: Tensor,
    d_final_BSC: Tensor | None,
    x_BLC: Tensor,
    weight_C1W: Tensor,
    bias_C: Tensor,
    initial_BSC: Tensor | None,
    resets_BL: Tensor | None,
    silu: bool,
    more_dy_BLC: Tensor | None = None,
    with_output: bool = False,
    dx_BLC: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the initial inputs, and the outputs once more if `with_output`.

    `more_dy` (contiguous), where given, adds to `dy`. `dx`, where given, gets the gradient of x; it may be a slice.
    What is not there is empty.
    """
    batch, length, channels = x_BLC.shape
    width = weight_C1W.shape[-1]
    dy_BLC = dy_BLC if dy_BLC.stride(2) == 1 else dy_BLC.contiguous()
    dx_BLC = x_BLC.new_empty(batch, length, channels) if dx_BLC is None else dx_BLC
    start_BSC = x_BLC if initial_BSC is None else initial_BSC
    d_initial_BSC = torch.zeros(
        0 if initial_BSC is None else batch, width - 1, channels, dtype=start_BSC.dtype, device=x_BLC.device
    )
    y_BLC = x_BLC.new_empty(batch, length, channels) if with_output else None
    launch = _block(channels, x_BLC.element_size())
    segments = triton.cdiv(length, BACKWARD_TOKENS)
    # A part: the gradients of the weight (C, W), then those of the bias (C).
    sums_PV = torch.empty(batch * segments, channels * (width + 1), dtype=torch.float32, device=x_BLC.device)
    kernels.backward_kernel[(triton.cdiv(channels, launch["BLOCK"]), segments, batch)](
        x_BLC, weight_C1W, bias_C, start_BSC, resets_BL, dy_BLC, more_dy_BLC, dx_BLC, y_BLC, d_initial_BSC, sums_PV,
        length, channels, BACKWARD_TOKENS, *x_BLC.stride()[:2], *start_BSC.stride()[:2], *dy_BLC.stride()[:2],
        *dx_BLC.stride()[:2], WIDTH=width, SILU=silu, HAS_INITIAL=initial_BSC is not None, **launch,
    )  # fmt: skip
    if d_final_BSC is not None:
        if resets_BL is not None:
            d_final_BSC = d_final_BSC * _seen_at_end(resets_BL, width - 1)[..., None]
        kept = min(length, width - 1)
        dx_BLC[:, length - kept :] += d_final_BSC[:, width - 1 - kept :]
        if initial_BSC is not None:
            d_initial_BSC[:, length:] += d_final_BSC[:, : width - 1 - kept]
    d_weight_V, d_bias_V = sums_PV.sum(0).split([channels * width, channels])
    d_weight_C1W = d_weight_V.to(weight_C1W.dtype, copy=True).view(channels, 1, width)
    again_BLC = dx_BLC.new_empty(0) if y_BLC is None else y_BLC
    return dx_BLC, d_weight_C1W, d_bias_V.to(bias_C.dtype, copy=True), d_initial_BSC, again_BLC


def _backward(
    dy_BLC: Tensor,
    d_final_BSC: Tensor | None,
    x_BLC: Tensor,
    weight_C1W: Tensor,
    bias_C: Tensor,
    initial_BSC: Tensor | None,
    resets_BL: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return conv_backward(dy_BLC, d_final_BSC, x_BLC, weight_C1W, bias_C, initial_BSC, resets_BL, silu)[:4]


def conv_backward_shapes(  # type: ignore[no-untyped-def]
    dy_BLC, d_final_BSC, x_BLC, weight_C1W, bias_C, initial_BSC, *_
):
    """Empty gradients, as `conv_backward` gives them."""
    start_BSC, batch = (x_BLC, 0) if initial_BSC is None else (initial_BSC, x_BLC.shape[0])
    d_initial_BSC = start_BSC.new_empty(batch, weight_C1W.shape[-1] - 1, x_BLC.shape[2])
    d_weight_C1W = weight_C1W.new_empty(weight_C1W.shape)
    return x_BLC.new_empty(x_BLC.shape), d_weight_C1W, bias_C.new_empty(bias_C.shape), d_initial_BSC


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _gradients(
    backward: Function, ctx: Any, dy_BLC: Tensor | None, d_final_BSC: Tensor | None
) -> tuple[Tensor | None, ...]:
    x_BLC, weight_C1W, bias_C, initial_BSC, resets_BL = ctx.saved_tensors
    dy_BLC = torch.zeros_like(x_BLC) if dy_BLC is None else dy_BLC
    *gradients, d_initial_BSC = backward(
        dy_BLC, d_final_BSC, x_BLC, weight_C1W, bias_C, initial_BSC, resets_BL, ctx.silu
    )
    return *gradients, None if initial_BSC is None else d_initial_BSC, None, None


_convolution = GpuFunction(
    "causal_conv1d",
    forward=conv_forward,
    forward_shapes=conv_forward_shapes,
    backward=_backward,
    backward_shapes=conv_backward_shapes,
    remember=_remember,
    gradients=_gradients,
)


def causal_conv1d_triton(
    x_BLC: Tensor,
    weight_C1W: Tensor,
    bias_C: Tensor,
    *,
    silu: bool = True,
    initial_BSC: Tensor | None = None,
    resets_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `causal_conv1d`, for bfloat16, float16 or float32 on a GPU; sums are float32, the output has the type of `x`.

    `x` may be a slice of a wider projection: only its channels must be contiguous.
    """
    x_BLC = channels_together(x_BLC)
    initial_BSC = None if initial_BSC is None else channels_together(initial_BSC)
    resets_BL = None if resets_BL is None else resets_BL.contiguous()
    y_BLC, final_BSC = _convolution(x_BLC, weight_C1W.contiguous(), bias_C.contiguous(), initial_BSC, resets_BL, silu)
    return y_BLC, final_BSC
