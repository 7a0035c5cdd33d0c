"""The selective scan of selective_scan.py on a GPU, by the kernels of kernels/selective_scan*.py.

Forward: where batch and channels alone do not fill the GPU, time is cut into stretches; each adds up its own part from
a zero state, the parts are chained, and each stretch then runs again from the state that enters it. The state is kept
every few hundred tokens. Backward goes over spans of time, last first, small enough that the states before every step
of a span fit in SPAN_BYTES: they are recomputed, the gradient of the state is chained over stretches, then all
gradients are taken. Softplus and gate are made again too; what is kept for them is the gated output, which the layer
keeps anyway. Every sum has a fixed order, so results are the same bit for bit.
Shapes: B batch, L length, D channels, N state size; s stretches of time; P parts of the sums over channels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from sidewinder.ops.dispatch import channels_together
from sidewinder.ops.gpu_function import Function, GpuFunction
from sidewinder.ops.kernels.selective_scan_rows import ROWS
from sidewinder.ops.selective_scan_launches import ScanProblem, saved_tokens

SPAN_BYTES = 1 << 30
"""Memory for the states of one span during backward."""


def scan_forward(
    x_BLD: Tensor,
    dt_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    z_BLD: Tensor | None,
    dt_bias_D: Tensor | None,
    initial_BDN: Tensor | None,
    resets_BL: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, the last state, and the states every few hundred tokens for the backward pass."""
    problem = ScanProblem(x_BLD, dt_BLD, A_DN, B_BLN, C_BLN, dt_bias_D, resets_BL)
    batch, length, channels = x_BLD.shape
    every = saved_tokens(problem.state_size)
    start_BND = problem.state(initial_BDN)
    stretch = problem.stretch(0, length, ROWS * 16)
    if stretch < length:
        parts_BsND, dt_sums_BsD = problem.own_states(stretch)
        states_BsND = problem.chain(dt_sums_BsD, start_BND, parts_BsND, reverse=False)
    else:
        states_BsND = start_BND[:, None]
    saved_BsND = problem.empty(batch, triton.cdiv(length, every), problem.state_size, channels)
    y_BLD = problem.outputs(D_D, z_BLD, states_BsND, stretch, saved_BsND)
    return y_BLD, states_BsND[:, -1].transpose(1, 2).contiguous(), saved_BsND


def scan_forward_shapes(x_BLD, dt_BLD, A_DN, *_):  # type: ignore[no-untyped-def]
    """Empty results of `scan_forward`."""
    batch, length, channels = x_BLD.shape
    state_size = A_DN.shape[1]
    saved = triton.cdiv(length, saved_tokens(state_size))
    final_BDN = x_BLD.new_empty(batch, channels, state_size, dtype=torch.float32)
    saved_BsND = x_BLD.new_empty(batch, saved, state_size, channels, dtype=torch.float32)
    return x_BLD.new_empty(x_BLD.shape), final_BDN, saved_BsND


def scan_backward(
    dy_BLD: Tensor,
    d_final_BDN: Tensor | None,
    x_BLD: Tensor,
    dt_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    z_BLD: Tensor | None,
    dt_bias_D: Tensor | None,
    resets_BL: Tensor | None,
    saved_BsND: Tensor,
    y_BLD: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C, D, z, the bias of dt and the initial state; with z, `y` is the gated output.

    Those of z and the bias are empty where these are None.
    """
    problem = ScanProblem(x_BLD, dt_BLD, A_DN, B_BLN, C_BLN, dt_bias_D, resets_BL)
    batch, length, channels = x_BLD.shape
    state_size, every = problem.state_size, saved_tokens(problem.state_size)
    dy_BLD = dy_BLD if dy_BLD.stride(2) == 1 else dy_BLD.contiguous()
    dz_BLD = dy_BLD.new_empty(0)
    if z_BLD is not None:
        assert y_BLD is not None
        dy_BLD, dz_BLD = problem.through_gate(dy_BLD, z_BLD, y_BLD)
    dx_BLD, d_dt_BLD = (torch.empty(x_BLD.shape, dtype=t.dtype, device=t.device) for t in (x_BLD, dt_BLD))
    d_bc_2BNL = problem.empty(2, batch, state_size, problem.padded)
    q_BND = problem.state(d_final_BDN)
    span = every * max(1, SPAN_BYTES * ROWS // (4 * batch * state_size * channels * every))
    span = min(span, every * triton.cdiv(length, every))
    stretch = problem.stretch(0, span, ROWS * 8)
    s = triton.cdiv(span, stretch)
    d_a2_BsND = problem.empty(batch, s, state_size, channels).zero_()
    d_sums_2BsD = problem.empty(2, batch, s, channels).zero_()  # Of D and of the bias.
    for begin in range(length - 1 - (length - 1) % span, -1, -span):
        end = min(begin + span, length)
        saved_here_BsND = saved_BsND[:, begin // every : triton.cdiv(end, every)].contiguous()
        states_BrND = problem.step_states(saved_here_BsND, begin, end, every)
        if end - begin > stretch:
            parts_BsND, dt_sums_BsD = problem.adjoints(dy_BLD, begin, end, stretch)
            q_BsND = problem.chain(dt_sums_BsD, q_BND, parts_BsND, reverse=True)
        else:
            q_BsND = q_BND[:, None]
        given, sums = (dy_BLD, D_D, states_BrND), (dx_BLD, d_dt_BLD, d_a2_BsND, d_sums_2BsD)
        parts_2PBNl = problem.gradients(given, q_BsND, sums, begin, end, stretch)
        torch.sum(parts_2PBNl, 1, out=d_bc_2BNL[..., begin : begin + parts_2PBNl.shape[-1]])
        q_BND = q_BsND[:, 0].contiguous()
    d_bc_2BLN = d_bc_2BNL[..., :length].transpose(2, 3)
    d_skip_D, d_bias_D = d_sums_2BsD.sum((1, 2))
    return (
        dx_BLD,
        d_dt_BLD,
        d_a2_BsND.sum((0, 1)).T.to(A_DN.dtype).contiguous(),
        d_bc_2BLN[0].to(B_BLN.dtype).contiguous(),
        d_bc_2BLN[1].to(C_BLN.dtype).contiguous(),
        d_skip_D.to(D_D.dtype, copy=True),
        dz_BLD,
        d_skip_D.new_empty(0) if dt_bias_D is None else d_bias_D.to(dt_bias_D.dtype, copy=True),
        q_BND.transpose(1, 2).contiguous(),
    )


def _backward_shapes(  # type: ignore[no-untyped-def]
    dy_BLD, d_final_BDN, x_BLD, dt_BLD, A_DN, B_BLN, C_BLN, D_D, z_BLD, dt_bias_D, resets_BL, saved_BsND, y_BLD
):
    gradients = (part.new_empty(part.shape) for part in (x_BLD, dt_BLD, A_DN, B_BLN, C_BLN, D_D))
    dz_BLD = dy_BLD.new_empty(0) if z_BLD is None else z_BLD.new_empty(z_BLD.shape)
    d_bias_D = saved_BsND.new_empty(0) if dt_bias_D is None else dt_bias_D.new_empty(dt_bias_D.shape)
    return *gradients, dz_BLD, d_bias_D, saved_BsND.new_empty(x_BLD.shape[0], *A_DN.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *kept, initial_BDN, resets_BL = inputs
    y_BLD, _, saved_BsND = output
    ctx.initial_dtype = None if initial_BDN is None else initial_BDN.dtype
    ctx.save_for_backward(*kept, resets_BL, saved_BsND, None if kept[6] is None else y_BLD)


def _gradients(
    backward: Function, ctx: Any, dy_BLD: Tensor | None, d_final_BDN: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    kept = ctx.saved_tensors
    dy_BLD = torch.zeros_like(kept[0]) if dy_BLD is None else dy_BLD
    *gradients, dz_BLD, d_bias_D, d_initial_BDN = backward(dy_BLD, d_final_BDN, *kept)
    return (
        *gradients,
        None if kept[6] is None else dz_BLD,
        None if kept[7] is None else d_bias_D,
        None if ctx.initial_dtype is None else d_initial_BDN.to(ctx.initial_dtype),
        None,
    )


_scan = GpuFunction(
    "selective_scan",
    forward=scan_forward,
    forward_shapes=scan_forward_shapes,
    backward=scan_backward,
    backward_shapes=_backward_shapes,
    remember=_remember,
    gradients=_gradients,
)


def selective_scan_triton(
    x_BLD: Tensor,
    dt_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    *,
    z_BLD: Tensor | None = None,
    dt_bias_D: Tensor | None = None,
    initial_BDN: Tensor | None = None,
    resets_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `selective_scan`, for bfloat16, float16 or float32 on a GPU, any state size; the state is float32.

    The output has the type of `x`. `x`, `dt` and `z` may be slices: only their channels must be contiguous.
    """
    x_BLD, dt_BLD = channels_together(x_BLD), channels_together(dt_BLD)
    z_BLD = None if z_BLD is None else channels_together(z_BLD)
    dt_bias_D = None if dt_bias_D is None else dt_bias_D.contiguous()
    resets_BL = None if resets_BL is None else resets_BL.contiguous()
    inputs = (x_BLD, dt_BLD, A_DN, B_BLN, C_BLN, D_D.contiguous(), z_BLD, dt_bias_D, initial_BDN, resets_BL)
    y_BLD, final_BDN, _ = _scan(*inputs)
    return y_BLD, final_BDN
