"""The two operations of mamba1.py on a GPU, put together from the launches of the convolution and the scan.

The first keeps the convolution's inputs. The convolution's backward kernel gives the output once more, which the
gradient of the projection needs, and adds up the two gradients that come back. The second keeps those inputs too, and
convolves and multiplies again before the scan's backward pass.
Shapes as in mamba1.py; T = B · L tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sidewinder.ops.causal_conv1d_triton import conv_backward, conv_backward_shapes, conv_forward, conv_forward_shapes
from sidewinder.ops.dispatch import channels_together, in_autocast
from sidewinder.ops.gpu_function import Function, GpuFunction
from sidewinder.ops.mamba1 import Convolved
from sidewinder.ops.selective_scan_triton import scan_backward, scan_forward, scan_forward_shapes


def _project(
    x_BLI: Tensor,
    weight_I1W: Tensor,
    bias_I: Tensor,
    initial_BSI: Tensor | None,
    resets_BL: Tensor | None,
    proj_weight_EI: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    out_BLI, final_BSI = conv_forward(x_BLI, weight_I1W, bias_I, initial_BSI, resets_BL, True)
    return out_BLI, F.linear(out_BLI, proj_weight_EI), final_BSI


def _project_shapes(x_BLI, weight_I1W, bias_I, initial_BSI, resets_BL, proj_weight_EI):  # type: ignore[no-untyped-def]
    out_BLI, final_BSI = conv_forward_shapes(x_BLI, weight_I1W)
    return out_BLI, x_BLI.new_empty(*x_BLI.shape[:2], proj_weight_EI.shape[0]), final_BSI


def _project_backward(
    d_out_BLI: Tensor | None,
    d_projected_BLE: Tensor,
    d_final_BSI: Tensor | None,
    x_BLI: Tensor,
    weight_I1W: Tensor,
    bias_I: Tensor,
    initial_BSI: Tensor | None,
    resets_BL: Tensor | None,
    proj_weight_EI: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, the convolution's weight and bias, its initial inputs (empty without) and the projection."""
    d_projected_TE = d_projected_BLE.flatten(0, 1)
    through_BLI = (d_projected_TE @ proj_weight_EI).view(x_BLI.shape)
    d_outs = (through_BLI, None) if d_out_BLI is None else (d_out_BLI, through_BLI)
    kept = (x_BLI, weight_I1W, bias_I, initial_BSI, resets_BL)
    *gradients, out_BLI = conv_backward(d_outs[0], d_final_BSI, *kept, True, more_dy_BLC=d_outs[1], with_output=True)
    dx_BLI, d_weight_I1W, d_bias_I, d_initial_BSI = gradients
    return dx_BLI, d_weight_I1W, d_bias_I, d_initial_BSI, d_projected_TE.T @ out_BLI.flatten(0, 1)


def _project_backward_shapes(  # type: ignore[no-untyped-def]
    d_out_BLI, d_projected_BLE, d_final_BSI, x_BLI, weight_I1W, bias_I, initial_BSI, resets_BL, proj_weight_EI
):
    gradients = conv_backward_shapes(d_out_BLI, d_final_BSI, x_BLI, weight_I1W, bias_I, initial_BSI)
    return *gradients, proj_weight_EI.new_empty(proj_weight_EI.shape)


def _remember_projected(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)
    ctx.projected = output[1].shape


def _project_gradients(
    backward: Function, ctx: Any, d_out_BLI: Tensor | None, d_projected_BLE: Tensor | None, d_final_BSI: Tensor | None
) -> tuple[Tensor | None, ...]:
    kept = ctx.saved_tensors
    if d_projected_BLE is None:
        d_projected_BLE = kept[0].new_zeros(ctx.projected)
    dx_BLI, d_weight_I1W, d_bias_I, d_initial_BSI, d_proj_EI = backward(d_out_BLI, d_projected_BLE, d_final_BSI, *kept)
    return dx_BLI, d_weight_I1W, d_bias_I, None if kept[3] is None else d_initial_BSI, None, d_proj_EI


_convolve_and_project = GpuFunction(
    "mamba1_project",
    forward=_project,
    forward_shapes=_project_shapes,
    backward=_project_backward,
    backward_shapes=_project_backward_shapes,
    remember=_remember_projected,
    gradients=_project_gradients,
)


def _parts(dtBC_BLE: Tensor, dt_weight_IR: Tensor, state_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The step size before bias and softplus (B, L, I), B and C (B, L, N)."""
    dt_BLR, B_BLN, C_BLN = dtBC_BLE.split([dt_weight_IR.shape[1], state_size, state_size], dim=-1)
    return F.linear(dt_BLR, dt_weight_IR), B_BLN, C_BLN


def _scan(
    out_BLI: Tensor,
    x_BLI: Tensor,
    weight_I1W: Tensor,
    bias_I: Tensor,
    initial_BSI: Tensor | None,
    resets_BL: Tensor | None,
    dtBC_BLE: Tensor,
    dt_weight_IR: Tensor,
    dt_bias_I: Tensor,
    A_IN: Tensor,
    D_I: Tensor,
    z_BLI: Tensor | None,
    initial_BIN: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    dt_BLI, B_BLN, C_BLN = _parts(dtBC_BLE, dt_weight_IR, A_IN.shape[1])
    return scan_forward(out_BLI, dt_BLI, A_IN, B_BLN, C_BLN, D_I, z_BLI, dt_bias_I, initial_BIN, resets_BL)


def _scan_shapes(  # type: ignore[no-untyped-def]
    out_BLI, x_BLI, weight_I1W, bias_I, initial_BSI, resets_BL, dtBC_BLE, dt_weight_IR, dt_bias_I, A_IN, *_
):
    return scan_forward_shapes(out_BLI, None, A_IN)


def _scan_backward(
    dy_BLI: Tensor,
    d_state_BIN: Tensor | None,
    x_BLI: Tensor,
    weight_I1W: Tensor,
    bias_I: Tensor,
    initial_BSI: Tensor | None,
    resets_BL: Tensor | None,
    dtBC_BLE: Tensor,
    dt_weight_IR: Tensor,
    dt_bias_I: Tensor,
    A_IN: Tensor,
    D_I: Tensor,
    z_BLI: Tensor | None,
    saved_BsNI: Tensor,
    y_BLI: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the convolved x, dt B C, the weight and the bias of dt, A, D, z (empty without), initial state."""
    out_BLI, _ = conv_forward(x_BLI, weight_I1W, bias_I, initial_BSI, resets_BL, True)
    dt_BLI, B_BLN, C_BLN = _parts(dtBC_BLE, dt_weight_IR, A_IN.shape[1])
    kept = (out_BLI, dt_BLI, A_IN, B_BLN, C_BLN, D_I, z_BLI, dt_bias_I, resets_BL, saved_BsNI, y_BLI)
    d_out_BLI, d_dt_BLI, dA_IN, dB_BLN, dC_BLN, dD_I, dz_BLI, d_bias_I, d_initial_BIN = scan_backward(
        dy_BLI, d_state_BIN, *kept
    )
    d_dt_TI, dt_TR = d_dt_BLI.flatten(0, 1), dtBC_BLE.flatten(0, 1)[:, : dt_weight_IR.shape[1]]
    d_dt_BLR = (d_dt_TI @ dt_weight_IR).view(*dtBC_BLE.shape[:2], -1)
    d_dtBC_BLE = torch.cat([d_dt_BLR, dB_BLN, dC_BLN], dim=-1)
    return d_out_BLI, d_dtBC_BLE, d_dt_TI.T @ dt_TR, d_bias_I, dA_IN, dD_I, dz_BLI, d_initial_BIN


def _scan_backward_shapes(  # type: ignore[no-untyped-def]
    dy_BLI, d_state_BIN, x_BLI, weight_I1W, bias_I, initial_BSI, resets_BL, dtBC_BLE, dt_weight_IR, dt_bias_I, A_IN,
    D_I, z_BLI, saved_BsNI, y_BLI,
):  # fmt: skip
    gradients = (part.new_empty(part.shape) for part in (x_BLI, dtBC_BLE, dt_weight_IR, dt_bias_I, A_IN, D_I))
    dz_BLI = dy_BLI.new_empty(0) if z_BLI is None else z_BLI.new_empty(z_BLI.shape)
    return *gradients, dz_BLI, saved_BsNI.new_empty(x_BLI.shape[0], *A_IN.shape)


def _remember_scan(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *kept, initial_BIN = inputs
    y_BLI, _, saved_BsNI = output
    ctx.initial_dtype = None if initial_BIN is None else initial_BIN.dtype
    ctx.save_for_backward(*kept, saved_BsNI, None if kept[-1] is None else y_BLI)


def _scan_gradients(
    backward: Function, ctx: Any, dy_BLI: Tensor | None, d_state_BIN: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    kept = ctx.saved_tensors
    x_BLI, z_BLI = kept[0], kept[10]
    dy_BLI = x_BLI.new_zeros(x_BLI.shape) if dy_BLI is None else dy_BLI
    d_out_BLI, *gradients, dz_BLI, d_initial_BIN = backward(dy_BLI, d_state_BIN, *kept)
    return (
        d_out_BLI,
        *[None] * 5,
        *gradients,
        None if z_BLI is None else dz_BLI,
        None if ctx.initial_dtype is None else d_initial_BIN.to(ctx.initial_dtype),
    )


_scan_projected = GpuFunction(
    "mamba1_scan",
    forward=_scan,
    forward_shapes=_scan_shapes,
    backward=_scan_backward,
    backward_shapes=_scan_backward_shapes,
    remember=_remember_scan,
    gradients=_scan_gradients,
)


def convolve_and_project_triton(
    x_BLI: Tensor,
    weight_I1W: Tensor,
    bias_I: Tensor,
    initial_BSI: Tensor | None,
    resets_BL: Tensor | None,
    proj_weight_EI: Tensor,
) -> tuple[Convolved, Tensor, Tensor]:
    """As `convolve_and_project`, for bfloat16, float16 or float32 on a GPU."""
    given = (
        channels_together(x_BLI),
        weight_I1W.contiguous(),
        bias_I.contiguous(),
        None if initial_BSI is None else channels_together(initial_BSI),
        None if resets_BL is None else resets_BL.contiguous(),
    )
    out_BLI, projected_BLE, final_BSI = _convolve_and_project(*given, in_autocast(proj_weight_EI))
    return Convolved(out_BLI, *given), projected_BLE, final_BSI


def scan_projected_triton(
    x: Convolved,
    dtBC_BLE: Tensor,
    dt_weight_IR: Tensor,
    dt_bias_I: Tensor,
    A_IN: Tensor,
    D_I: Tensor,
    z_BLI: Tensor | None,
    initial_BIN: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As `scan_projected`, for bfloat16, float16 or float32 on a GPU."""
    z_BLI = None if z_BLI is None else channels_together(z_BLI)
    parameters = (in_autocast(dt_weight_IR), dt_bias_I.contiguous(), A_IN, D_I.contiguous())
    y_BLI, state_BIN, _ = _scan_projected(*x, dtBC_BLE.contiguous(), *parameters, z_BLI, initial_BIN)
    return y_BLI, state_BIN
