"""Launches of the SSD's kernels, and the choice of their blocks: in one place, by a table, with nothing to tune.

Shapes: B batch, L length, H heads, P channels a head, G groups, N state size; c chunks of Q tokens, l = c · Q; V blocks
of heads; S parts of a group's heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sidewinder.ops.kernels import ssd as kernels
from sidewinder.ops.kernels import ssd_backward as backward_kernels

PROGRAMS_WANTED = 132 * 2
"""Programs that fill a large GPU; heads are divided among more programs until there are as many."""
HOPPER_SHARED_BYTES = 200_000
"""Shared memory a program from which the plan is that of Hopper, which has 227 KiB; an A100 has 163."""
FEW_HEADS = 16
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
    trace: bool
    """Whether key_gradient_kernel takes a sum over the state as the trace of a product: with the tensor cores of Hopper
    that needs fewer registers, without them several times as many."""
    states: Launch
    output: Launch
    input_gradient: Launch
    key_gradients: Launch


def plan_of(dtype: torch.dtype, state_size: int, shared_bytes: int) -> Plan:
    """The plan for a GPU with so much shared memory a program.

    Blocks are as large as the registers hold, by the compiler's own count. The last plan is for Hopper, of
    launches that were timed one by one on an H200. float32 multiplies without tensor cores, exactly.
    """
    four, eight = Launch(4, 1), Launch(8, 1)
    if dtype == torch.float32:
        chunk = 32 if state_size <= 128 else 16
        return Plan(chunk, chunk, 16, 64, False, four, eight, eight, eight)
    if shared_bytes < HOPPER_SHARED_BYTES:
        chunk, size = (32, 64) if state_size <= 128 else (16, 32)
        return Plan(2 * chunk, chunk, size, 64, False, four, four, four, eight)
    if state_size > 128:
        return Plan(64, 64, 32, 128, False, Launch(4, 2), four, four, eight)
    return Plan(64, 64, 64, 128, True, Launch(4, 3), Launch(4, 2), Launch(4, 1), Launch(4, 2))


def plan_for(x: Tensor, state_size: int) -> Plan:
    """The plan for the type of `x` and the device that it is on."""
    shared_bytes = HOPPER_SHARED_BYTES
    if x.is_cuda:
        properties: Any = torch.cuda.get_device_properties(x.device)  # Torch's types leave the next name out.
        shared_bytes = properties.shared_memory_per_block_optin
    return plan_of(x.dtype, state_size, shared_bytes)


class SsdProblem:
    """Inputs in the form that the kernels take, and the launches."""

    def __init__(
        self,
        x_BLHP: Tensor,
        dt_BLH: Tensor,
        A_H: Tensor,
        B_BLGN: Tensor,
        C_BLGN: Tensor,
        dt_bias_H: Tensor | None,
        resets_BL: Tensor | None,
        *,
        backward: bool,
    ) -> None:
        self.x_BLHP, self.dt_BLH, self.B_BLGN, self.C_BLGN = x_BLHP, dt_BLH, B_BLGN, C_BLGN
        self.A_H, self.dt_bias_H = A_H, dt_bias_H
        self.batch, self.length, self.heads, self.size = x_BLHP.shape
        self.groups, self.state_size = B_BLGN.shape[2:]
        self.plan = plan_for(x_BLHP, self.state_size)
        self.chunk = self.plan.backward_chunk if backward else self.plan.forward_chunk
        self.chunks = triton.cdiv(self.length, self.chunk)
        self.per_group = self.heads // self.groups
        self.block = min(max(16, triton.next_power_of_2(self.size)), self.plan.size)
        self.split = triton.cdiv(self.size, self.block)
        self.wide_state = max(16, triton.next_power_of_2(self.state_size))
        self.sizes = {"SIZE": self.size, "STATE": self.state_size, "Q": self.chunk, "PRECISION": "ieee"}
        self.blocks = {"SPLIT": self.split, "P": self.block, "N": self.wide_state, **self.sizes}
        self.together = self._together()
        self.rows_BC = {"B_l": B_BLGN.stride(1), "C_l": C_BLGN.stride(1)}
        self.decay_BHl, self.step_BHl, self.segment_Bl = self._decays(resets_BL)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=self.x_BLHP.device)

    def _together(self) -> int:
        """Blocks of heads that one program takes one after the other: as many of a group as leave the GPU full."""
        blocks = self.per_group * self.split
        programs = self.chunks * self.groups * self.batch
        fitting = [n for n in range(1, blocks + 1) if blocks % n == 0 and programs * (blocks // n) >= PROGRAMS_WANTED]
        return max(fitting, default=1)

    def _decays(self, resets_BL: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        padded = self.chunks * self.chunk
        decay_BHl, step_BHl = (self.empty(self.batch, self.heads, padded) for _ in range(2))
        segment_Bl = None if resets_BL is None else self.empty(self.batch, padded, dtype=torch.int32)
        kernels.decay_kernel[(self.chunks, triton.cdiv(self.heads, FEW_HEADS), self.batch)](
            self.dt_BLH, self.dt_bias_H, self.A_H, resets_BL, decay_BHl, step_BHl, segment_Bl, self.length, padded,
            self.heads, *self.dt_BLH.stride(), Q=self.chunk, HEADS=FEW_HEADS, num_warps=4,
        )  # fmt: skip
        return decay_BHl, step_BHl, segment_Bl

    def _state_blocks(self) -> tuple[int, int]:
        """Channels and columns of a state that a program of states_kernel takes: fewer where there are few heads."""
        size, state = self.block, min(self.wide_state, self.plan.state)

        def programs() -> int:
            return self.batch * self.heads * triton.cdiv(self.size, size) * triton.cdiv(self.state_size, state)

        while programs() < PROGRAMS_WANTED // 2 and max(size, state) > 16:
            size, state = (size, state // 2) if state > size else (size // 2, state)
        return size, state

    def states(
        self, values_BLHP: Tensor, keys_BLGN: Tensor, start_BHPN: Tensor | None, *, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        """The states before the chunks (B, c, H, P, N), in the type of the products, and the last, in float32; in
        reverse, the gradients of the states after the chunks and of the first."""
        shape_BHPN = (self.heads, self.size, self.state_size)
        states_BcHPN = self.empty(self.batch, self.chunks, *shape_BHPN, dtype=self.x_BLHP.dtype)
        end_BHPN = self.empty(self.batch, *shape_BHPN)
        size, state = self._state_blocks()
        blocks = triton.cdiv(self.size, size) * triton.cdiv(self.state_size, state)
        kernels.states_kernel[(blocks, self.heads, self.batch)](
            values_BLHP, keys_BLGN, self.decay_BHl, self.step_BHl, self.segment_Bl, start_BHPN, states_BcHPN, end_BHPN,
            self.length, self.chunks, self.heads, self.per_group, *values_BLHP.stride()[:3:2],
            *keys_BLGN.stride()[:3:2], values_l=values_BLHP.stride(1), keys_l=keys_BLGN.stride(1),
            REVERSE=reverse, P=size, N=state, **self.sizes, **self.plan.states.options(),
        )  # fmt: skip
        return states_BcHPN, end_BHPN

    def outputs(self, skip_H: Tensor, states_BcHPN: Tensor) -> Tensor:
        """Outputs (B, L, H, P) of all chunks from the states that enter them."""
        y_BLHP = self.empty(*self.x_BLHP.shape, dtype=self.x_BLHP.dtype)
        kernels.output_kernel[(self.chunks, self.heads * self.split // self.together, self.batch)](
            self.x_BLHP, self.B_BLGN, self.C_BLGN, skip_H, self.decay_BHl, self.step_BHl, self.segment_Bl, states_BcHPN,
            y_BLHP, self.length, self.chunks, self.heads, self.per_group, self.together, *self.x_BLHP.stride()[:3:2],
            *self.B_BLGN.stride()[:3:2], *self.C_BLGN.stride()[:3:2], x_l=self.x_BLHP.stride(1), **self.rows_BC,
            **self.blocks, **self.plan.output.options(),
        )  # fmt: skip
        return y_BLHP

    def gradients(
        self, dy_BLHP: Tensor, skip_H: Tensor, states: tuple[Tensor, Tensor], into: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        """Fills in the gradients of x, B and C (`into`) from those of y and the states; returns what finish() wants."""
        (entering_BcHPN, leaving_BcHPN), (dx_BLHP, dB_BLGN, dC_BLGN) = states, into
        blocks = self.heads * self.split
        programs, parts = blocks // self.together, blocks // self.groups // self.together
        given_BVl, gained_BVl = (self.empty(self.batch, blocks, self.chunks * self.chunk) for _ in range(2))
        ends_BcV, skips_BcV = (self.empty(self.batch, self.chunks, blocks) for _ in range(2))
        both_BcQQ = self.empty(self.batch, self.chunks, programs, self.chunk, self.chunk, dtype=self.x_BLHP.dtype)
        dB_SBLGN, dC_SBLGN = dB_BLGN[None], dC_BLGN[None]
        if parts > 1:
            dB_SBLGN, dC_SBLGN = self.empty(2, parts, *dB_BLGN.shape)
        grid = (self.chunks, programs, self.batch)
        read = (self.x_BLHP, dy_BLHP, self.B_BLGN, self.C_BLGN)
        strides = [stride for part in read for stride in part.stride()[:3:2]]
        common = (self.length, self.chunks, self.heads, self.per_group, self.together, *strides)
        options: dict[str, Any] = {"x_l": self.x_BLHP.stride(1), "dy_l": dy_BLHP.stride(1)} | self.rows_BC | self.blocks
        backward_kernels.input_gradient_kernel[grid](
            self.x_BLHP, dy_BLHP, self.B_BLGN, self.C_BLGN, skip_H, self.decay_BHl, self.step_BHl, self.segment_Bl,
            leaving_BcHPN, dx_BLHP, both_BcQQ, given_BVl, gained_BVl, ends_BcV, skips_BcV, *common, dx_BLHP.stride(0),
            dx_l=dx_BLHP.stride(1), **options, **self.plan.input_gradient.options(),
        )  # fmt: skip
        backward_kernels.key_gradient_kernel[grid](
            self.x_BLHP, dy_BLHP, self.B_BLGN, self.C_BLGN, self.decay_BHl, self.step_BHl, self.segment_Bl,
            entering_BcHPN, leaving_BcHPN, both_BcQQ, dB_SBLGN, dC_SBLGN, gained_BVl, ends_BcV, *common,
            *dB_SBLGN.stride()[:2], d_l=dB_SBLGN.stride(2), TRACE=self.plan.trace,
            **options, **self.plan.key_gradients.options(),
        )  # fmt: skip
        if parts > 1:
            dB_BLGN.copy_(dB_SBLGN.sum(0))
            dC_BLGN.copy_(dC_SBLGN.sum(0))
        return given_BVl, gained_BVl, ends_BcV, skips_BcV

    def finish(self, sums: tuple[Tensor, ...], d_dt_BLH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fills in the gradient of dt; returns those of A, D and the bias of dt (garbage without one), in float32."""
        d_bias_BcH, d_rates_BcH, d_skip_BcH = self.empty(3, self.batch, self.chunks, self.heads)
        backward_kernels.finish_kernel[(self.chunks, triton.cdiv(self.heads, FEW_HEADS), self.batch)](
            self.dt_BLH, self.dt_bias_H, self.A_H, self.step_BHl, *sums, d_dt_BLH, d_bias_BcH, d_rates_BcH, d_skip_BcH,
            self.length, self.chunks, self.heads, *self.dt_BLH.stride(), *d_dt_BLH.stride()[:2],
            SPLIT=self.split, Q=self.chunk, HEADS=FEW_HEADS, num_warps=4,
        )  # fmt: skip
        return d_rates_BcH.sum((0, 1)), d_skip_BcH.sum((0, 1)), d_bias_BcH.sum((0, 1))
