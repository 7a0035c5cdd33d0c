"""The operation of mamba2.py on a GPU, put together from the launches of convolution, scan and gated norm.

Backward keeps the projection and the scan's output; the convolution runs again. Every gradient of the projection is
written to its place in one array by the kernel that computes it.
Shapes as in mamba2.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sidewinder.ops.causal_conv1d_triton import conv_backward, conv_forward
from sidewinder.ops.dispatch import channels_together
from sidewinder.ops.gated_norm_triton import norm_backward, norm_forward
from sidewinder.ops.gpu_function import Function, GpuFunction
from sidewinder.ops.mamba2 import Inside
from sidewinder.ops.ssd_triton import ssd_backward, ssd_forward


def _sections(projected_BLE: Tensor, inside: Inside) -> tuple[Tensor, ...]:
    """z, xBC, dt."""
    return projected_BLE.split([inside.inner, inside.convolved, inside.heads], dim=-1)


def _scanned(xBC_BLC: Tensor, inside: Inside) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, L, H, P), B and C (B, L, G, N)."""
    x_BLI, B_BLE, C_BLE = xBC_BLC.split([inside.inner, inside.bc, inside.bc], dim=-1)
    B_BLGN, C_BLGN = (part.unflatten(-1, (inside.groups, -1)) for part in (B_BLE, C_BLE))
    return x_BLI.unflatten(-1, (inside.heads, -1)), B_BLGN, C_BLGN


def _rows(x_BLI: Tensor) -> Tensor:
    """(B · L, I), without a copy: the tokens of slices of one projection follow each other at one distance."""
    return x_BLI.flatten(0, 1)


def _forward(
    projected_BLE: Tensor,
    conv_weight_C1W: Tensor,
    conv_bias_C: Tensor,
    dt_bias_H: Tensor,
    A_H: Tensor,
    D_H: Tensor,
    norm_weight_I: Tensor,
    tail_BSC: Tensor | None,
    initial_BHPN: Tensor | None,
    resets_BL: Tensor | None,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gated norm, the convolution's last inputs, the last state; the scan's output and 1 / rms for backward."""
    inside = Inside(conv_weight_C1W, conv_bias_C, dt_bias_H, A_H, D_H, norm_weight_I, groups, 0, eps)
    z_BLI, xBC_BLC, dt_BLH = _sections(projected_BLE, inside)
    out_BLC, last_BSC = conv_forward(xBC_BLC, conv_weight_C1W, conv_bias_C, tail_BSC, resets_BL, True)
    x_BLHP, B_BLGN, C_BLGN = _scanned(out_BLC, inside)
    y_BLHP, final_BHPN = ssd_forward(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H, dt_bias_H, initial_BHPN, resets_BL)
    y_BLI = y_BLHP.flatten(2)
    normed_RI, scale_RG = norm_forward(_rows(y_BLI), _rows(z_BLI), norm_weight_I, eps, groups)
    return normed_RI.view(y_BLI.shape), last_BSC, final_BHPN, y_BLI, scale_RG


def _forward_shapes(  # type: ignore[no-untyped-def]
    projected_BLE, conv_weight_C1W, conv_bias_C, dt_bias_H, A_H, D_H, norm_weight_I, tail_BSC, initial_BHPN, resets_BL,
    groups, eps,
):  # fmt: skip
    (batch, length, _), inner, heads = projected_BLE.shape, norm_weight_I.shape[0], A_H.shape[0]
    convolved = conv_bias_C.shape[0]
    y_BLI = projected_BLE.new_empty(batch, length, inner)
    last_BSC = projected_BLE.new_empty(batch, conv_weight_C1W.shape[-1] - 1, convolved)
    state = (convolved - inner) // (2 * groups)
    final_BHPN = projected_BLE.new_empty(batch, heads, inner // heads, state, dtype=torch.float32)
    scale_RG = projected_BLE.new_empty(batch * length, groups, dtype=torch.float32)
    return y_BLI, last_BSC, final_BHPN, torch.empty_like(y_BLI), scale_RG


def _backward(
    d_normed_BLI: Tensor,
    d_last_BSC: Tensor | None,
    d_final_BHPN: Tensor | None,
    projected_BLE: Tensor,
    conv_weight_C1W: Tensor,
    conv_bias_C: Tensor,
    dt_bias_H: Tensor,
    A_H: Tensor,
    D_H: Tensor,
    norm_weight_I: Tensor,
    tail_BSC: Tensor | None,
    initial_BHPN: Tensor | None,
    resets_BL: Tensor | None,
    y_BLI: Tensor,
    scale_RG: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the projection, of the six parameters, of the tail (empty without) and of the initial state."""
    inside = Inside(conv_weight_C1W, conv_bias_C, dt_bias_H, A_H, D_H, norm_weight_I, scale_RG.shape[1], 0, 0.0)
    z_BLI, xBC_BLC, dt_BLH = _sections(projected_BLE, inside)
    d_projected_BLE = projected_BLE.new_empty(projected_BLE.shape)
    dz_BLI, d_xBC_BLC, d_dt_BLH = _sections(d_projected_BLE, inside)
    dy_RI, d_norm_I = norm_backward(
        _rows(d_normed_BLI), _rows(y_BLI), _rows(z_BLI), norm_weight_I, scale_RG, _rows(dz_BLI)
    )
    conv = (xBC_BLC, conv_weight_C1W, conv_bias_C, tail_BSC, resets_BL, True)
    out_BLC, _ = conv_forward(*conv)
    x_BLHP, B_BLGN, C_BLGN = _scanned(out_BLC, inside)
    d_out_BLC = out_BLC.new_empty(out_BLC.shape)
    dx_BLHP, dB_BLGN, dC_BLGN = _scanned(d_out_BLC, inside)
    given = (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H, dt_bias_H, initial_BHPN, resets_BL)
    into = (dx_BLHP, d_dt_BLH, dB_BLGN, dC_BLGN)
    d_A_H, d_D_H, d_bias_H, d_initial_BHPN = ssd_backward(dy_RI.view(x_BLHP.shape), d_final_BHPN, *given, into)
    _, d_weight_C1W, d_conv_bias_C, d_tail_BSC, _ = conv_backward(d_out_BLC, d_last_BSC, *conv, dx_BLC=d_xBC_BLC)
    return (
        d_projected_BLE,
        d_weight_C1W,
        d_conv_bias_C,
        d_bias_H.to(dt_bias_H.dtype),
        d_A_H.to(A_H.dtype),
        d_D_H.to(D_H.dtype),
        d_norm_I,
        d_tail_BSC,
        d_initial_BHPN,
    )


def _backward_shapes(  # type: ignore[no-untyped-def]
    d_normed_BLI, d_last_BSC, d_final_BHPN, projected_BLE, conv_weight_C1W, conv_bias_C, dt_bias_H, A_H, D_H,
    norm_weight_I, tail_BSC, initial_BHPN, resets_BL, y_BLI, scale_RG,
):  # fmt: skip
    parameters = (conv_weight_C1W, conv_bias_C, dt_bias_H, A_H, D_H, norm_weight_I)
    gradients = (part.new_empty(part.shape) for part in (projected_BLE, *parameters))
    batch, inner, heads, convolved = len(y_BLI), y_BLI.shape[2], A_H.shape[0], conv_bias_C.shape[0]
    tail = (0 if tail_BSC is None else batch, conv_weight_C1W.shape[-1] - 1, convolved)
    state = (convolved - inner) // (2 * scale_RG.shape[1])
    d_tail_BSC = (projected_BLE if tail_BSC is None else tail_BSC).new_empty(tail)
    return *gradients, d_tail_BSC, y_BLI.new_empty(batch, heads, inner // heads, state, dtype=torch.float32)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *kept, _, _ = inputs
    ctx.save_for_backward(*kept, *output[3:])


def _gradients(
    backward: Function,
    ctx: Any,
    d_normed_BLI: Tensor | None,
    d_last_BSC: Tensor | None,
    d_final_BHPN: Tensor | None,
    *_: None,
) -> tuple[Tensor | None, ...]:
    kept = ctx.saved_tensors
    tail_BSC, initial_BHPN = kept[7:9]
    d_normed_BLI = torch.zeros_like(kept[10]) if d_normed_BLI is None else d_normed_BLI.contiguous()
    *gradients, d_tail_BSC, d_initial_BHPN = backward(d_normed_BLI, d_last_BSC, d_final_BHPN, *kept)
    d_tail_BSC = None if tail_BSC is None else d_tail_BSC
    d_initial_BHPN = None if initial_BHPN is None else d_initial_BHPN.to(initial_BHPN.dtype)
    return *gradients, d_tail_BSC, d_initial_BHPN, None, None, None


_mix = GpuFunction(
    "mamba2_mix",
    forward=_forward,
    forward_shapes=_forward_shapes,
    backward=_backward,
    backward_shapes=_backward_shapes,
    remember=_remember,
    gradients=_gradients,
)


def mix_triton(
    projected_BLE: Tensor,
    inside: Inside,
    tail_BSC: Tensor | None,
    initial_BHPN: Tensor | None,
    resets_BL: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `mix`, for bfloat16, float16 or float32 on a GPU."""
    *parameters, groups, _, eps = inside
    normed_BLI, last_BSC, final_BHPN, _, _ = _mix(
        projected_BLE.contiguous(),
        *(parameter.contiguous() for parameter in parameters),
        None if tail_BSC is None else channels_together(tail_BSC),
        None if initial_BHPN is None else initial_BHPN.contiguous(),
        None if resets_BL is None else resets_BL.contiguous(),
        groups,
        eps,
    )
    return normed_BLI, last_BSC, final_BHPN
