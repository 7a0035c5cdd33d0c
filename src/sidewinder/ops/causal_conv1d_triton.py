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


@torch.library.custom_op("sidewinder::causal_conv1d", mutates_args=())
def _conv(
    x_BLC: Tensor, weight_C1W: Tensor, bias_C: Tensor, initial_BSC: Tensor | None, resets_BL: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    batch, length, channels = x_BLC.shape
    width = weight_C1W.shape[-1]
    y_BLC = torch.empty(batch, length, channels, dtype=x_BLC.dtype, device=x_BLC.device)
    start_BSC = x_BLC if initial_BSC is None else initial_BSC
    launch = _block(channels, x_BLC.element_size())
    grid = (triton.cdiv(channels, launch["BLOCK"]), triton.cdiv(length, FORWARD_TOKENS), batch)
    kernels.forward_kernel[grid](
        x_BLC,
        weight_C1W[:, 0].T.contiguous(),
        bias_C,
        start_BSC,
        resets_BL,
        y_BLC,
        length,
        channels,
        FORWARD_TOKENS,
        *x_BLC.stride()[:2],
        *start_BSC.stride()[:2],
        WIDTH=width,
        SILU=silu,
        HAS_INITIAL=initial_BSC is not None,
        **launch,
    )
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


@_conv.register_fake
def _(x_BLC, weight_C1W, bias_C, initial_BSC, resets_BL, silu):  # type: ignore[no-untyped-def]
    batch, _, channels = x_BLC.shape
    return x_BLC.new_empty(x_BLC.shape), x_BLC.new_empty(batch, weight_C1W.shape[-1] - 1, channels)


@torch.library.custom_op("sidewinder::causal_conv1d_backward", mutates_args=())
def _conv_backward(
    dy_BLC: Tensor,
    d_final_BSC: Tensor,
    x_BLC: Tensor,
    weight_C1W: Tensor,
    bias_C: Tensor,
    initial_BSC: Tensor | None,
    resets_BL: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, length, channels = x_BLC.shape
    width = weight_C1W.shape[-1]
    dy_BLC = dy_BLC if dy_BLC.stride(2) == 1 else dy_BLC.contiguous()
    dx_BLC = torch.empty(batch, length, channels, dtype=x_BLC.dtype, device=x_BLC.device)
    start_BSC = x_BLC if initial_BSC is None else initial_BSC
    d_initial_BSC = start_BSC.new_zeros(batch, width - 1, channels)
    launch = _block(channels, x_BLC.element_size())
    segments = triton.cdiv(length, BACKWARD_TOKENS)
    sums_PVC = torch.empty(batch * segments, width + 1, channels, dtype=torch.float32, device=x_BLC.device)
    kernels.backward_kernel[(triton.cdiv(channels, launch["BLOCK"]), segments, batch)](
        x_BLC,
        weight_C1W[:, 0].T.contiguous(),
        bias_C,
        start_BSC,
        resets_BL,
        dy_BLC,
        dx_BLC,
        d_initial_BSC,
        sums_PVC,
        length,
        channels,
        BACKWARD_TOKENS,
        *x_BLC.stride()[:2],
        *start_BSC.stride()[:2],
        *dy_BLC.stride()[:2],
        WIDTH=width,
        SILU=silu,
        HAS_INITIAL=initial_BSC is not None,
        **launch,
    )
    if resets_BL is not None:
        d_final_BSC = d_final_BSC * _seen_at_end(resets_BL, width - 1)[..., None]
    kept = min(length, width - 1)
    dx_BLC[:, length - kept :] += d_final_BSC[:, width - 1 - kept :]
    d_initial_BSC[:, length:] += d_final_BSC[:, : width - 1 - kept]
    sums_VC = sums_PVC.sum(0)
    d_weight_C1W = sums_VC[:width].T.to(weight_C1W.dtype).contiguous()[:, None]
    return dx_BLC, d_weight_C1W, sums_VC[width].to(bias_C.dtype, copy=True), d_initial_BSC


@_conv_backward.register_fake
def _(dy_BLC, d_final_BSC, x_BLC, weight_C1W, bias_C, initial_BSC, resets_BL, silu):  # type: ignore[no-untyped-def]
    start_BSC = x_BLC if initial_BSC is None else initial_BSC
    d_initial_BSC = start_BSC.new_empty(x_BLC.shape[0], weight_C1W.shape[-1] - 1, x_BLC.shape[2])
    return x_BLC.new_empty(x_BLC.shape), torch.empty_like(weight_C1W), torch.empty_like(bias_C), d_initial_BSC


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy_BLC: Tensor, d_final_BSC: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    dx_BLC, d_weight_C1W, d_bias_C, d_initial_BSC = _conv_backward(dy_BLC, d_final_BSC, *saved, ctx.silu)
    return dx_BLC, d_weight_C1W, d_bias_C, None if saved[3] is None else d_initial_BSC, None, None


_conv.register_autograd(_gradients, setup_context=_remember)


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
    x_BLC = x_BLC if x_BLC.stride(2) == 1 else x_BLC.contiguous()
    if initial_BSC is not None and initial_BSC.stride(2) != 1:
        initial_BSC = initial_BSC.contiguous()
    resets_BL = None if resets_BL is None else resets_BL.contiguous()
    return _conv(x_BLC, weight_C1W, bias_C.contiguous(), initial_BSC, resets_BL, silu)
