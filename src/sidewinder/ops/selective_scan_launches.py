"""Launches of the selective scan's kernels, and the cut of time into stretches that fill a GPU.

Shapes: B batch, L length, D channels, N state size; s stretches of time; P parts of the sums over channels.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from sidewinder.ops.kernels import selective_scan as kernels
from sidewinder.ops.kernels import selective_scan_backward as backward_kernels
from sidewinder.ops.kernels.selective_scan_gradient import gradient_kernel
from sidewinder.ops.kernels.selective_scan_rows import ROWS

STATES_A_PROGRAM = 16
"""States that one program of the kernels without sums over N runs over."""
CHANNELS_A_WARP = 64
"""Two channels a thread halve the loads of B and C and the sums over channels; four need too many registers."""
GRADIENT_WARPS = 4
"""Warps a program of the largest kernel, where sharing loads in the cache gains a little."""
GATE_CHANNELS = 1024
"""Channels a program of the gate's gradient."""
WARPS_WANTED = 132 * 16
"""Warps that fill a large GPU; fewer leave the special-function units idle."""


def saved_tokens(state_size: int) -> int:
    """Tokens between the states that forward keeps: their memory stays below that of the inputs in bfloat16."""
    return 256 if state_size <= 64 else 512


def _grid(channels: int, middle: int, batch: int, block: int) -> tuple[int, int, int]:
    return triton.cdiv(channels, block), middle, batch


class ScanProblem:
    """Inputs in the form that the kernels take, and the launches."""

    def __init__(
        self,
        x_BLD: Tensor,
        dt_BLD: Tensor,
        A_DN: Tensor,
        B_BLN: Tensor,
        C_BLN: Tensor,
        dt_bias_D: Tensor | None,
        resets_BL: Tensor | None,
    ) -> None:
        self.x_BLD, self.dt_BLD, self.dt_bias_D, self.resets_BL = x_BLD, dt_BLD, dt_bias_D, resets_BL
        self.batch, self.length, self.channels = x_BLD.shape
        self.state_size = A_DN.shape[1]
        self.a2_ND = (A_DN.float() * math.log2(math.e)).T.contiguous()
        self.padded = ROWS * triton.cdiv(self.length, ROWS)
        pairs_BNL2 = self.empty(self.batch, self.state_size, self.padded, 2)
        pairs_BNL2[:, :, : self.length, 0] = B_BLN.transpose(1, 2)
        pairs_BNL2[:, :, : self.length, 1] = C_BLN.transpose(1, 2)
        if self.padded > self.length:
            pairs_BNL2[:, :, self.length :] = 0
        self.bc_BNL = pairs_BNL2.view(torch.int64)[..., 0]
        self.block = CHANNELS_A_WARP
        self.launch = {"ROWS": ROWS, "BLOCK": self.block, "num_warps": 1}
        self.sizes = (self.length, self.padded, self.channels, self.state_size)

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.float32, device=self.x_BLD.device)

    def state(self, given_BDN: Tensor | None) -> Tensor:
        """A state of its own (B, N, D), zero where none is given."""
        state_BND = self.empty(self.batch, self.state_size, self.channels)
        return state_BND.zero_() if given_BDN is None else state_BND.copy_(given_BDN.transpose(1, 2))

    def stretch(self, begin: int, end: int, step: int) -> int:
        """Tokens a stretch, a multiple of `step`: as few stretches as fill the GPU."""
        warps = self.batch * triton.cdiv(self.channels, CHANNELS_A_WARP)
        stretches = max(1, min(triton.cdiv(end - begin, step), WARPS_WANTED // warps))
        return step * triton.cdiv(triton.cdiv(end - begin, stretches), step)

    def own_states(self, stretch: int) -> tuple[Tensor, Tensor]:
        """The state that each stretch but the last reaches from 0, and its sum of dt."""
        s = triton.cdiv(self.length, stretch) - 1
        states_BsND = self.empty(self.batch, s, self.state_size, self.channels)
        dt_sums_BsD = self.empty(self.batch, s, self.channels)
        blocks = s * triton.cdiv(self.state_size, STATES_A_PROGRAM)
        kernels.own_states_kernel[_grid(self.channels, blocks, self.batch, self.block)](
            self.x_BLD, self.dt_BLD, self.dt_bias_D, self.a2_ND, self.bc_BNL, self.resets_BL, states_BsND, dt_sums_BsD,
            s, *self.sizes, stretch, STATES_A_PROGRAM,
            *self.x_BLD.stride()[:2], *self.dt_BLD.stride()[:2], **self.launch,
        )  # fmt: skip
        return states_BsND, dt_sums_BsD

    def step_states(self, saved_BsND: Tensor, begin: int, end: int, stretch: int) -> Tensor:
        """The state before every step of the tokens `begin` … `end`, from the saved one of each stretch."""
        steps = triton.cdiv(end - begin, ROWS)
        states_BrND = self.empty(self.batch, steps, self.state_size, self.channels)
        blocks = triton.cdiv(end - begin, stretch) * triton.cdiv(self.state_size, STATES_A_PROGRAM)
        kernels.step_states_kernel[_grid(self.channels, blocks, self.batch, self.block)](
            self.x_BLD, self.dt_BLD, self.dt_bias_D, self.a2_ND, self.bc_BNL, saved_BsND, self.resets_BL, states_BrND,
            begin, end, *self.sizes, stretch, STATES_A_PROGRAM,
            *self.x_BLD.stride()[:2], *self.dt_BLD.stride()[:2], **self.launch,
        )  # fmt: skip
        return states_BrND

    def chain(self, dt_sums_BsD: Tensor, incoming_BND: Tensor, parts_BsND: Tensor, *, reverse: bool) -> Tensor:
        """What comes in to each stretch, from what each but the last adds by itself (the first, for `reverse`)."""
        stretches = parts_BsND.shape[1] + 1
        entering_BsND = self.empty(self.batch, stretches, self.state_size, self.channels)
        kernels.chain_kernel[(triton.cdiv(self.channels, 128), self.state_size, self.batch)](
            self.a2_ND, dt_sums_BsD, incoming_BND, parts_BsND, entering_BsND, self.channels, self.state_size,
            stretches, REVERSE=reverse, BLOCK=128, num_warps=4,
        )  # fmt: skip
        return entering_BsND

    def outputs(
        self, skip_D: Tensor, z_BLD: Tensor | None, states_BsND: Tensor, stretch: int, saved_BsND: Tensor
    ) -> Tensor:
        """Outputs (B, L, D) from the states that enter the stretches; fills in those that backward begins with."""
        y_BLD = torch.empty(self.x_BLD.shape, dtype=self.x_BLD.dtype, device=self.x_BLD.device)
        z_strides = (0, 0) if z_BLD is None else z_BLD.stride()[:2]
        kernels.output_kernel[_grid(self.channels, states_BsND.shape[1], self.batch, self.block)](
            self.x_BLD, self.dt_BLD, self.dt_bias_D, self.a2_ND, self.bc_BNL, skip_D, z_BLD, self.resets_BL,
            states_BsND, saved_BsND, y_BLD, *self.sizes, stretch, saved_tokens(self.state_size),
            *self.x_BLD.stride()[:2], *self.dt_BLD.stride()[:2], *z_strides, **self.launch,
        )  # fmt: skip
        return y_BLD

    def through_gate(self, dy_BLD: Tensor, z_BLD: Tensor, y_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of what enters the gate and of z, from that of the gated output `y`."""
        own_BLD, dz_BLD = (torch.empty(y_BLD.shape, dtype=t.dtype, device=t.device) for t in (dy_BLD, z_BLD))
        block = min(GATE_CHANNELS, triton.next_power_of_2(self.channels))
        backward_kernels.gate_kernel[(self.length, triton.cdiv(self.channels, block), self.batch)](
            dy_BLD, z_BLD, y_BLD, own_BLD, dz_BLD, self.length, self.channels,
            *dy_BLD.stride()[:2], *z_BLD.stride()[:2], BLOCK=block, num_warps=4,
        )  # fmt: skip
        return own_BLD, dz_BLD

    def adjoints(self, dy_BLD: Tensor, begin: int, end: int, stretch: int) -> tuple[Tensor, Tensor]:
        """What each stretch but the first adds by itself to the gradient of the state entering it; its sum of dt."""
        begin += stretch
        s = triton.cdiv(end - begin, stretch)
        q_BsND = self.empty(self.batch, s, self.state_size, self.channels)
        dt_sums_BsD = self.empty(self.batch, s, self.channels)
        blocks = s * triton.cdiv(self.state_size, STATES_A_PROGRAM)
        backward_kernels.adjoint_kernel[_grid(self.channels, blocks, self.batch, self.block)](
            self.dt_BLD, self.dt_bias_D, dy_BLD, self.a2_ND, self.bc_BNL, self.resets_BL, q_BsND, dt_sums_BsD,
            begin, end, *self.sizes, stretch, STATES_A_PROGRAM,
            *self.dt_BLD.stride()[:2], *dy_BLD.stride()[:2], **self.launch,
        )  # fmt: skip
        return q_BsND, dt_sums_BsD

    def gradients(
        self, given: tuple[Tensor, ...], q_BsND: Tensor, sums: tuple[Tensor, ...], begin: int, end: int, stretch: int
    ) -> Tensor:
        """Fills in the gradients of the span; returns those of B and C (2, P, B, N, padded tokens), not yet summed."""
        (dy_BLD, skip_D, states_BrND), (dx_BLD, d_dt_BLD, d_a2_BsND, d_sums_2BsD) = given, sums
        # The sums over channels are written for NVIDIA's warps; elsewhere the compiler puts them together, by program.
        exchanged = torch.version.cuda is not None and not triton.knobs.runtime.interpret
        warps = min(GRADIENT_WARPS, triton.next_power_of_2(triton.cdiv(self.channels, self.block)))
        programs = triton.cdiv(self.channels, self.block * warps)
        tokens = ROWS * triton.cdiv(end - begin, ROWS)
        parts = programs * (warps if exchanged else 1)
        parts_2PBNl = self.empty(2, parts, self.batch, self.state_size, tokens)
        gradient_kernel[(programs, q_BsND.shape[1], self.batch)](
            self.x_BLD, self.dt_BLD, self.dt_bias_D, dy_BLD, self.a2_ND, self.bc_BNL, skip_D, self.resets_BL,
            states_BrND, q_BsND, dx_BLD, d_dt_BLD, d_sums_2BsD[1], d_a2_BsND, parts_2PBNl[0], parts_2PBNl[1],
            d_sums_2BsD[0], begin, end, *self.sizes, stretch,
            *self.x_BLD.stride()[:2], *self.dt_BLD.stride()[:2], *dy_BLD.stride()[:2],
            EXCHANGED=exchanged, ROWS=ROWS, BLOCK=self.block * warps, num_warps=warps,
        )  # fmt: skip
        return parts_2PBNl
