"""The scan of ssd.py on a GPU: launches the kernels of kernels/ssd*.py.

Forward: the states between chunks, a head a program, then the outputs, a chunk and a group of heads a program. Backward
keeps the inputs alone. It computes the states again, and likewise from the end the gradients of the states; with both,
all gradients of a chunk are taken at once. Every sum has a fixed order, so results are the same bit for bit. The chunks
of the kernels are their own: the result does not depend on the model's.
Shapes: B batch, L length, H heads, P channels a head, G groups, N state size; c chunks; S parts of a group's heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sidewinder.ops.gpu_function import Function, GpuFunction
from sidewinder.ops.kernels import ssd as kernels
from sidewinder.ops.kernels import ssd_backward as backward_kernels

PROGRAMS_WANTED = 132 * 2
"""Programs that fill a large GPU; heads are divided among more programs until there are as many."""
LARGE_SHARED_BYTES = 160_000
"""Shared memory a program from which blocks may be as large as on Hopper, which has 227 KiB."""
DECAY_HEADS = 16
"""Heads a program of the small kernels, so that dt, whose heads come last in memory, is read in whole lines."""


class Launch(NamedTuple):
    """How a kernel is launched."""

    warps: int
    stages: int
    """Chunks or heads whose loads are under way at once."""

    def options(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


class Plan(NamedTuple):
    """Sizes of blocks and launches of all kernels for one type of the inputs and one state size."""

    forward_chunk: int
    backward_chunk: int
    size: int
    """Most channels of a head that a program takes at once."""
    state: int
    """Most of the state's columns that a program of states_kernel takes; the others take them all."""
    states: Launch
    output: Launch
    input_gradient: Launch
    key_gradients: Launch


def plan_of(dtype: torch.dtype, state_size: int, shared_bytes: int) -> Plan:
    """The one place where launches are chosen, for a GPU with so much shared memory a program.

    The first is for Hopper: two programs of each backward kernel fit a multiprocessor. float32 multiplies without tensor
    cores, exactly, in blocks that fit the registers.
    """
    one = Launch(4, 1)
    if dtype == torch.float32:
        chunk = 32 if state_size <= 128 else 16
        return Plan(chunk, chunk, 16, 64, one, *[Launch(8, 1)] * 3)
    if shared_bytes < LARGE_SHARED_BYTES:
        return Plan(32, 32, 32, 64, one, one, one, Launch(8, 1))
    if state_size > 128:
        return Plan(64, 64, 64, 128, Launch(4, 2), one, one, Launch(8, 1))
    return Plan(128, 64, 64, 128, Launch(4, 3), Launch(8, 2), Launch(4, 2), Launch(4, 2))


def _plan(x: Tensor, state_size: int) -> Plan:
    shared_bytes = LARGE_SHARED_BYTES
    if x.is_cuda:
        shared_bytes = torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin
    return plan_of(x.dtype, state_size, shared_bytes)


class _Problem:
    """Inputs in the form that the kernels take, and the launches."""

    def __init__(
        self,
        x_BLHP: Tensor,
        dt_BLH: Tensor,
        A_H: Tensor,
        B_BLGN: Tensor,
        C_BLGN: Tensor,
        resets_BL: Tensor | None,
        *,
        chunk: int,
        plan: Plan,
    ) -> None:
        self.x_BLHP, self.B_BLGN, self.C_BLGN, self.A_H = x_BLHP, B_BLGN, C_BLGN, A_H
        self.batch, self.length, self.heads, self.size = x_BLHP.shape
        self.groups, self.state_size = B_BLGN.shape[2:]
        self.plan, self.chunk = plan, chunk
        self.chunks = triton.cdiv(self.length, chunk)
        self.per_group = self.heads // self.groups
        self.block = min(max(16, triton.next_power_of_2(self.size)), plan.size)
        self.split = triton.cdiv(self.size, self.block)
        self.wide_state = max(16, triton.next_power_of_2(self.state_size))
        self.sizes = {"SIZE": self.size, "STATE": self.state_size, "Q": chunk, "PRECISION": "ieee"}
        self.decay_BHl, self.step_BHl, self.segment_Bl = self._decays(dt_BLH, resets_BL)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=self.x_BLHP.device)

    def _decays(self, dt_BLH: Tensor, resets_BL: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        padded = self.chunks * self.chunk
        decay_BHl, step_BHl = (self.empty(self.batch, self.heads, padded) for _ in range(2))
        segment_Bl = None if resets_BL is None else self.empty(self.batch, padded, dtype=torch.int32)
        kernels.decay_kernel[(self.chunks, triton.cdiv(self.heads, DECAY_HEADS), self.batch)](
            dt_BLH, self.A_H, resets_BL, decay_BHl, step_BHl, segment_Bl, self.length, padded, self.heads,
            *dt_BLH.stride(), Q=self.chunk, HEADS=DECAY_HEADS, num_warps=4,
        )  # fmt: skip
        return decay_BHl, step_BHl, segment_Bl

    def states(self, values_BLHP: Tensor, keys_BLGN: Tensor, start_BHPN: Tensor | None, *, reverse: bool) -> Any:
        """The states before the chunks (B, c, H, P, N), in the type of the products, and the last, in float32; in
        reverse, the gradients of the states after the chunks and of the first."""
        states_BcHPN = self.empty(
            self.batch, self.chunks, self.heads, self.size, self.state_size, dtype=self.x_BLHP.dtype
        )
        end_BHPN = self.empty(self.batch, self.heads, self.size, self.state_size)
        size, state = self.block, min(self.wide_state, self.plan.state)
        while self.batch * self.heads * triton.cdiv(self.size, size) * triton.cdiv(self.state_size, state) < (
            PROGRAMS_WANTED // 2
        ) and (size > 16 or state > 16):
            size, state = (size, state // 2) if state > size else (size // 2, state)
        blocks = triton.cdiv(self.size, size) * triton.cdiv(self.state_size, state)
        kernels.states_kernel[(blocks, self.heads, self.batch)](
            values_BLHP, keys_BLGN, self.decay_BHl, self.step_BHl, self.segment_Bl, start_BHPN, states_BcHPN, end_BHPN,
            self.length, self.chunks, self.heads, self.per_group, *values_BLHP.stride()[:3], *keys_BLGN.stride()[:3],
            REVERSE=reverse, P=size, N=state, **self.sizes, **self.plan.states.options(),
        )  # fmt: skip
        return states_BcHPN, end_BHPN

    def together(self) -> int:
        """Blocks of heads that one program takes one after the other: as many of a group as leave the GPU full."""
        blocks = self.per_group * self.split
        programs = self.chunks * self.groups * self.batch
        fitting = [n for n in range(1, blocks + 1) if blocks % n == 0 and programs * (blocks // n) >= PROGRAMS_WANTED]
        return max(fitting, default=1)

    def outputs(self, skip_H: Tensor, states_BcHPN: Tensor) -> Tensor:
        y_BLHP = self.empty(*self.x_BLHP.shape, dtype=self.x_BLHP.dtype)
        together = self.together()
        kernels.output_kernel[(self.chunks, self.heads * self.split // together, self.batch)](
            self.x_BLHP, self.B_BLGN, self.C_BLGN, skip_H, self.decay_BHl, self.step_BHl, self.segment_Bl, states_BcHPN,
            y_BLHP, self.length, self.chunks, self.heads, self.per_group, together,
            *self.x_BLHP.stride()[:3], *self.B_BLGN.stride()[:3], *self.C_BLGN.stride()[:3],
            SPLIT=self.split, P=self.block, N=self.wide_state, **self.sizes, **self.plan.output.options(),
        )  # fmt: skip
        return y_BLHP

    def gradients(
        self,
        dy_BLHP: Tensor,
        skip_H: Tensor,
        entering_BcHPN: Tensor,
        leaving_BcHPN: Tensor,
        dx_BLHP: Tensor,
        dB_BLGN: Tensor,
        dC_BLGN: Tensor,
    ) -> tuple[Tensor, ...]:
        """Fills in the gradients of x, B and C; returns what finish() turns into the others."""
        together, blocks = self.together(), self.heads * self.split
        programs, parts = blocks // together, self.per_group * self.split // together
        given_BVl, gained_BVl = (self.empty(self.batch, blocks, self.chunks * self.chunk) for _ in range(2))
        ends_BcV, skips_BcV = (self.empty(self.batch, self.chunks, blocks) for _ in range(2))
        both_BcQQ = self.empty(self.batch, self.chunks, programs, self.chunk, self.chunk, dtype=self.x_BLHP.dtype)
        dB_SBLGN, dC_SBLGN = dB_BLGN[None], dC_BLGN[None]
        if parts > 1:
            shape = (parts, self.batch, self.length, self.groups, self.state_size)
            dB_SBLGN, dC_SBLGN = self.empty(*shape), self.empty(*shape)
        grid = (self.chunks, programs, self.batch)
        sizes = {"SPLIT": self.split, "P": self.block, "N": self.wide_state, **self.sizes}
        numbers = (self.length, self.chunks, self.heads, self.per_group, together)
        strides_BC = (*self.B_BLGN.stride()[:3], *self.C_BLGN.stride()[:3])
        strides = (*self.x_BLHP.stride()[:3], *dy_BLHP.stride()[:3], *strides_BC)
        backward_kernels.input_gradient_kernel[grid](
            self.x_BLHP, dy_BLHP, self.B_BLGN, self.C_BLGN, skip_H, self.decay_BHl, self.step_BHl, self.segment_Bl,
            leaving_BcHPN, dx_BLHP, both_BcQQ, given_BVl, gained_BVl, ends_BcV, skips_BcV, *numbers, *strides,
            *dx_BLHP.stride()[:2], **sizes, **self.plan.input_gradient.options(),
        )  # fmt: skip
        backward_kernels.key_gradient_kernel[grid](
            self.x_BLHP, dy_BLHP, self.B_BLGN, self.C_BLGN, self.decay_BHl, self.step_BHl, self.segment_Bl,
            entering_BcHPN, leaving_BcHPN, both_BcQQ, dB_SBLGN, dC_SBLGN, gained_BVl, ends_BcV, *numbers, *strides,
            *dB_SBLGN.stride()[:3], **sizes, **self.plan.key_gradients.options(),
        )  # fmt: skip
        if parts > 1:
            dB_BLGN.copy_(dB_SBLGN.sum(0))
            dC_BLGN.copy_(dC_SBLGN.sum(0))
        return given_BVl, gained_BVl, ends_BcV, skips_BcV

    def finish(self, sums: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of dt (B, L, H), in `dtype`, and of A and D (H)."""
        d_dt_BLH = self.empty(self.batch, self.length, self.heads, dtype=dtype)
        d_rates_BcH, d_skip_BcH = (self.empty(self.batch, self.chunks, self.heads) for _ in range(2))
        backward_kernels.finish_kernel[(self.chunks, triton.cdiv(self.heads, DECAY_HEADS), self.batch)](
            self.A_H, self.step_BHl, *sums, d_dt_BLH, d_rates_BcH, d_skip_BcH, self.length, self.chunks, self.heads,
            SPLIT=self.split, Q=self.chunk, HEADS=DECAY_HEADS, num_warps=4,
        )  # fmt: skip
        return d_dt_BLH, d_rates_BcH.sum((0, 1)), d_skip_BcH.sum((0, 1))


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
    plan = _plan(x_BLHP, B_BLGN.shape[3])
    problem = _Problem(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, resets_BL, chunk=plan.forward_chunk, plan=plan)
    states_BcHPN, final_BHPN = problem.states(x_BLHP, B_BLGN, initial_BHPN, reverse=False)
    return problem.outputs(D_H, states_BcHPN), final_BHPN


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
    plan = _plan(x_BLHP, B_BLGN.shape[3])
    problem = _Problem(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, resets_BL, chunk=plan.backward_chunk, plan=plan)
    dy_BLHP = dy_BLHP if dy_BLHP.stride(3) == 1 else dy_BLHP.contiguous()
    d_final_BHPN = None if d_final_BHPN is None else d_final_BHPN.contiguous()
    entering_BcHPN, _ = problem.states(x_BLHP, B_BLGN, initial_BHPN, reverse=False)
    leaving_BcHPN, d_initial_BHPN = problem.states(dy_BLHP, C_BLGN, d_final_BHPN, reverse=True)
    dx_BLHP, dB_BLGN, dC_BLGN = (problem.empty(*part.shape, dtype=part.dtype) for part in (x_BLHP, B_BLGN, C_BLGN))
    sums = problem.gradients(dy_BLHP, D_H, entering_BcHPN, leaving_BcHPN, dx_BLHP, dB_BLGN, dC_BLGN)
    d_dt_BLH, d_A_H, d_D_H = problem.finish(sums, dt_BLH.dtype)
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
    x_BLHP, *_, initial_BHPN, _ = ctx.saved_tensors
    dy_BLHP = torch.zeros_like(x_BLHP) if dy_BLHP is None else dy_BLHP
    *gradients, d_initial_BHPN = backward(dy_BLHP, d_final_BHPN, *ctx.saved_tensors)
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
    B_BLGN, C_BLGN = B_BLGN.to(x_BLHP.dtype), C_BLGN.to(x_BLHP.dtype)
    x_BLHP, B_BLGN, C_BLGN = (part if part.stride(3) == 1 else part.contiguous() for part in (x_BLHP, B_BLGN, C_BLGN))
    initial_BHPN = None if initial_BHPN is None else initial_BHPN.contiguous()
    resets_BL = None if resets_BL is None else resets_BL.contiguous()
    y_BLHP, final_BHPN = _scan(
        x_BLHP, dt_BLH, A_H.contiguous(), B_BLGN, C_BLGN, D_H.contiguous(), initial_BHPN, resets_BL
    )
    return y_BLHP, final_BHPN
