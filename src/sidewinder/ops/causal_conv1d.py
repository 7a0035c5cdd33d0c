"""Depthwise causal convolution over time, with an optional SiLU.

y[t, c] = bias[c] + Σ_k weight[c, k] · x[t − (W − 1) + k, c]; before the first token x is `initial`, or 0.
Shapes: B batch, L length, C channels, W width, S = W − 1 remembered inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    batch, length, channels = x_BLC.shape
    window_BSC = x_BLC.new_zeros(batch, width - 1, channels) if initial_BSC is None else initial_BSC
    outputs = []
    for t in range(length):
        if resets_BL is not None:
            window_BSC = window_BSC * ~resets_BL[:, t, None, None]
        window_BWC = torch.cat([window_BSC, x_BLC[:, t : t + 1]], dim=1)
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
    width, length = weight_C1W.shape[-1], x_BLC.shape[1]
    padded_BTC = F.pad(x_BLC, (0, 0, width - 1, 0)) if initial_BSC is None else torch.cat([initial_BSC, x_BLC], dim=1)
    age_BL = None if resets_BL is None else token_age(resets_BL)
    y_BLC = bias_C + x_BLC * weight_C1W[:, 0, -1]
    for back in range(1, width):
        tap_BLC = padded_BTC[:, width - 1 - back : width - 1 - back + length] * weight_C1W[:, 0, -1 - back]
        y_BLC = y_BLC + (tap_BLC if age_BL is None else tap_BLC * (age_BL >= back)[..., None])
    final_BSC = padded_BTC[:, length:]
    if age_BL is not None:
        still_seen_BS = age_BL[:, -1:] >= torch.arange(width - 2, -1, -1, device=x_BLC.device)
        final_BSC = final_BSC * still_seen_BS[..., None]
    return (F.silu(y_BLC) if silu else y_BLC), final_BSC


def token_age(resets_BL: Tensor) -> Tensor:
    """Tokens since the last reset (0 at the reset itself); before the first reset, more than any width."""
    place_L = torch.arange(resets_BL.shape[1], device=resets_BL.device)
    last_BL = torch.where(resets_BL, place_L, -(1 << 40)).cummax(dim=1).values
    return place_L - last_BL
