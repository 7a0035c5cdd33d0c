"""Depthwise causal convolution over time, with an optional SiLU.

y[t, c] = bias[c] + Σ_k weight[c, k] · x[t − (W − 1) + k, c]; before the first token x is `initial`, or 0.
Shapes: B batch, L length, C channels, W width, S = W − 1 remembered inputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sidewinder.ops.dispatch import in_float32, on_gpu


def causal_conv1d_reference(
    x_BLC: Tensor,
    weight_C1W: Tensor,
    bias_C: Tensor,
    *,
    silu: bool = True,
    initial_BSC: Tensor | None = None,
    resets_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Token by token over a window of the last W inputs; a reset empties the window."""
    width = weight_C1W.shape[-1]
    batch, _, channels = x_BLC.shape
    window_BSC = x_BLC.new_zeros(batch, width - 1, channels) if initial_BSC is None else initial_BSC
    outputs = []
    for t, x_B1C in enumerate(x_BLC.split(1, dim=1)):
        if resets_BL is not None:
            window_BSC = window_BSC * ~resets_BL[:, t, None, None]
        window_BWC = torch.cat([window_BSC, x_B1C], dim=1)
        outputs.append((window_BWC * weight_C1W[:, 0].T).sum(1) + bias_C)
        window_BSC = window_BWC[:, 1:]
    y_BLC = torch.stack(outputs, dim=1)
    return (y_BLC * torch.sigmoid(y_BLC) if silu else y_BLC), window_BSC


def causal_conv1d(
    x_BLC: Tensor,
    weight_C1W: Tensor,
    bias_C: Tensor,
    *,
    silu: bool = True,
    initial_BSC: Tensor | None = None,
    resets_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolution of `x` (B, L, C) and the last W − 1 inputs (B, W − 1, C), which continue the sequence later.

    `resets_BL` is true at the first token of a document: nothing before it is seen by it or by later tokens.
    """
    if on_gpu(x_BLC):
        from sidewinder.ops.causal_conv1d_triton import causal_conv1d_triton

        states = {"initial_BSC": initial_BSC, "resets_BL": resets_BL}
        return causal_conv1d_triton(x_BLC, weight_C1W, bias_C, silu=silu, **states)
    weight_C1W, bias_C = in_float32(weight_C1W), in_float32(bias_C)
    y_BLC, final_BSC = _causal_conv1d(in_float32(x_BLC), weight_C1W, bias_C, silu, initial_BSC, resets_BL)
    return y_BLC.to(x_BLC.dtype), final_BSC.to(x_BLC.dtype)


def _causal_conv1d(
    x_BLC: Tensor,
    weight_C1W: Tensor,
    bias_C: Tensor,
    silu: bool,
    initial_BSC: Tensor | None,
    resets_BL: Tensor | None,
) -> tuple[Tensor, Tensor]:
    kept, length = weight_C1W.shape[-1] - 1, x_BLC.shape[1]
    if resets_BL is not None:
        return _with_resets(x_BLC, weight_C1W, bias_C, silu, initial_BSC, resets_BL)
    if initial_BSC is None and length >= kept:
        return _ShiftedSum.apply(x_BLC, weight_C1W, bias_C, silu), x_BLC[:, length - kept :]
    padded_BTC = _after(initial_BSC, x_BLC, kept)
    return _ShiftedSum.apply(padded_BTC, weight_C1W, bias_C, silu)[:, kept:], padded_BTC[:, length:]


class _ShiftedSum(torch.autograd.Function):
    """The sum of W shifted, scaled inputs, each added in place: for such widths several times faster than F.conv1d."""

    @staticmethod
    def forward(ctx: Any, x_BLC: Tensor, weight_C1W: Tensor, bias_C: Tensor, silu: bool) -> Tensor:
        # Rows of contiguous numbers: a strided tap makes each pass four times slower.
        taps_WC = weight_C1W[:, 0].T.flip(0).contiguous()
        sum_BLC = torch.addcmul(bias_C, x_BLC, taps_WC[0], out=x_BLC.new_empty(x_BLC.shape))
        for back in range(1, min(len(taps_WC), x_BLC.shape[1])):
            sum_BLC[:, back:].addcmul_(x_BLC[:, :-back], taps_WC[back])
        ctx.save_for_backward(x_BLC, taps_WC, sum_BLC if silu else None)
        return F.silu(sum_BLC) if silu else sum_BLC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_BLC, taps_WC, sum_BLC = ctx.saved_tensors
        (dy_BLC,) = d_outputs
        if sum_BLC is not None:
            dy_BLC = torch.ops.aten.silu_backward(dy_BLC, sum_BLC)
        dx_BLC, d_taps_WC = torch.mul(dy_BLC, taps_WC[0], out=x_BLC.new_empty(x_BLC.shape)), torch.zeros_like(taps_WC)
        d_taps_WC[0] = (dy_BLC * x_BLC).sum((0, 1))
        for back in range(1, min(len(taps_WC), x_BLC.shape[1])):
            dx_BLC[:, :-back].addcmul_(dy_BLC[:, back:], taps_WC[back])
            d_taps_WC[back] = (dy_BLC[:, back:] * x_BLC[:, :-back]).sum((0, 1))
        return dx_BLC, d_taps_WC.flip(0).T[:, None], dy_BLC.sum((0, 1)), None


def _with_resets(
    x_BLC: Tensor, weight_C1W: Tensor, bias_C: Tensor, silu: bool, initial_BSC: Tensor | None, resets_BL: Tensor
) -> tuple[Tensor, Tensor]:
    """The same sum, where each tap counts only for tokens whose document reaches that far back."""
    kept, length = weight_C1W.shape[-1] - 1, x_BLC.shape[1]
    padded_BTC, age_BL = _after(initial_BSC, x_BLC, kept), token_age(resets_BL)
    y_BLC = bias_C + x_BLC * weight_C1W[:, 0, -1]
    for back in range(1, kept + 1):
        tap_BLC = padded_BTC[:, kept - back : kept - back + length] * weight_C1W[:, 0, -1 - back]
        y_BLC = y_BLC + tap_BLC * (age_BL >= back)[..., None]
    still_seen_BS = age_BL[:, -1:] >= torch.arange(kept - 1, -1, -1, device=x_BLC.device)
    return (F.silu(y_BLC) if silu else y_BLC), padded_BTC[:, length:] * still_seen_BS[..., None]


def _after(initial_BSC: Tensor | None, x_BLC: Tensor, kept: int) -> Tensor:
    """`x` with the inputs before it, zeros where there are none."""
    return F.pad(x_BLC, (0, 0, kept, 0)) if initial_BSC is None else torch.cat([initial_BSC, x_BLC], dim=1)


def token_age(resets_BL: Tensor) -> Tensor:
    """Tokens since the last reset (0 at the reset itself); before the first reset, more than any width."""
    place_L = torch.arange(resets_BL.shape[1], device=resets_BL.device)
    last_BL = torch.where(resets_BL, place_L, -(1 << 40)).cummax(dim=1).values
    return place_L - last_BL
