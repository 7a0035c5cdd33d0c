"""The scan of ssd.py on a GPU, by the kernels of kernels/ssd*.py, which ssd_launches.py launches.

Forward: the states between chunks, a head a program, then the outputs, a chunk and a group of heads a program. Backward
keeps the inputs alone. It computes the states again, and likewise from the end the gradients of the states; with both,
all gradients of a chunk are taken at once. Every sum has a fixed order, so results are the same bit for bit. The chunks
of the kernels are their own: the result does not depend on the model's.
Shapes: B batch, L length, H heads, P channels a head, G groups, N state size; c chunks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sidewinder.ops.dispatch import channels_together
from sidewinder.ops.gpu_function import Function, GpuFunction
from sidewinder.ops.ssd_launches import SsdProblem


def ssd_forward(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    D_H: Tensor,
    dt_bias_H: Tensor | None,
    initial_BHPN: Tensor | None,
    resets_BL: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Outputs and the last state (float32). With a bias the step size is softplus(dt + bias)."""
    problem = SsdProblem(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, dt_bias_H, resets_BL, backward=False)
    states_BcHPN, final_BHPN = problem.states(x_BLHP, B_BLGN, initial_BHPN, reverse=False)
    return problem.outputs(D_H, states_BcHPN), final_BHPN


def ssd_backward(
    dy_BLHP: Tensor,
    d_final_BHPN: Tensor | None,
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    D_H: Tensor,
    dt_bias_H: Tensor | None,
    initial_BHPN: Tensor | None,
    resets_BL: Tensor | None,
    into: tuple[Tensor, Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fills in the gradients of x, dt, B and C (`into`; they may be slices, side by side but for batch and token).

    Returns those of A, D, the bias of dt (garbage without one) and the initial state, all in float32.
    """
    dx_BLHP, d_dt_BLH, dB_BLGN, dC_BLGN = into
    problem = SsdProblem(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, dt_bias_H, resets_BL, backward=True)
    dy_BLHP = channels_together(dy_BLHP)
    d_final_BHPN = None if d_final_BHPN is None else d_final_BHPN.contiguous()
    entering_BcHPN, _ = problem.states(x_BLHP, B_BLGN, initial_BHPN, reverse=False)
    leaving_BcHPN, d_initial_BHPN = problem.states(dy_BLHP, C_BLGN, d_final_BHPN, reverse=True)
    states = entering_BcHPN, leaving_BcHPN
    sums = problem.gradients(dy_BLHP, D_H, states, (dx_BLHP, dB_BLGN, dC_BLGN))
    return *problem.finish(sums, d_dt_BLH), d_initial_BHPN


def _forward(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    D_H: Tensor,
    initial_BHPN: Tensor | None,
    resets_BL: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return ssd_forward(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H, None, initial_BHPN, resets_BL)


def _forward_shapes(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H, initial_BHPN, resets_BL):  # type: ignore[no-untyped-def]
    batch, _, heads, size = x_BLHP.shape
    final_BHPN = x_BLHP.new_empty(batch, heads, size, B_BLGN.shape[3], dtype=torch.float32)
    return x_BLHP.new_empty(x_BLHP.shape), final_BHPN


def _backward(
    dy_BLHP: Tensor,
    d_final_BHPN: Tensor | None,
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    D_H: Tensor,
    initial_BHPN: Tensor | None,
    resets_BL: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C, D and the initial state."""
    inputs = (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H, None, initial_BHPN, resets_BL)
    dx_BLHP, d_dt_BLH, dB_BLGN, dC_BLGN = (part.new_empty(part.shape) for part in (x_BLHP, dt_BLH, B_BLGN, C_BLGN))
    into = dx_BLHP, d_dt_BLH, dB_BLGN, dC_BLGN
    d_A_H, d_D_H, _, d_initial_BHPN = ssd_backward(dy_BLHP, d_final_BHPN, *inputs, into)
    return dx_BLHP, d_dt_BLH, d_A_H.to(A_H.dtype), dB_BLGN, dC_BLGN, d_D_H.to(D_H.dtype), d_initial_BHPN


def _backward_shapes(  # type: ignore[no-untyped-def]
    dy_BLHP, d_final_BHPN, x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H, initial_BHPN, resets_BL
):
    gradients = (part.new_empty(part.shape) for part in (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H))
    batch, _, heads, size = x_BLHP.shape
    return *gradients, x_BLHP.new_empty(batch, heads, size, B_BLGN.shape[3], dtype=torch.float32)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(
    backward: Function, ctx: Any, dy_BLHP: Tensor | None, d_final_BHPN: Tensor | None
) -> tuple[Tensor | None, ...]:
    kept = ctx.saved_tensors  # Read once: a checkpointed layer's can be unpacked no second time.
    x_BLHP, *_, initial_BHPN, _ = kept
    dy_BLHP = torch.zeros_like(x_BLHP) if dy_BLHP is None else dy_BLHP
    *gradients, d_initial_BHPN = backward(dy_BLHP, d_final_BHPN, *kept)
    return *gradients, None if initial_BHPN is None else d_initial_BHPN.to(initial_BHPN.dtype), None


_scan = GpuFunction(
    "ssd",
    forward=_forward,
    forward_shapes=_forward_shapes,
    backward=_backward,
    backward_shapes=_backward_shapes,
    remember=_remember,
    gradients=_gradients,
)


def ssd_triton(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    D_H: Tensor,
    *,
    chunk: int,
    initial_BHPN: Tensor | None = None,
    resets_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `ssd`, for bfloat16, float16 or float32 on a GPU and states of at most 256; the last state is float32.

    `x`, `B` and `C` may be slices: only their last dimension must be contiguous. `chunk` does not matter here.
    """
    parts = (x_BLHP, B_BLGN.to(x_BLHP.dtype), C_BLGN.to(x_BLHP.dtype))
    x_BLHP, B_BLGN, C_BLGN = (channels_together(part) for part in parts)
    initial_BHPN = None if initial_BHPN is None else initial_BHPN.contiguous()
    resets_BL = None if resets_BL is None else resets_BL.contiguous()
    y_BLHP, final_BHPN = _scan(
        x_BLHP, dt_BLH, A_H.contiguous(), B_BLGN, C_BLGN, D_H.contiguous(), initial_BHPN, resets_BL
    )
    return y_BLHP, final_BHPN
