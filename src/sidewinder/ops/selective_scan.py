"""Mamba-1's selective scan (Gu and Dao, arXiv 2312.00752).

h[t] = exp(dt[t] A) ∘ h[t−1] + (dt[t] x[t]) ⊗ B[t],  y[t] = h[t] C[t] + D x[t], for each channel.
What stands round it in a layer may be part of it: dt as softplus(dt + bias), and the output times silu(z).

The fast form reads blocks of tokens whose states fit the processor's cache, and keeps only the state that enters each
block: the backward pass makes the others again. Time is the first dimension there and channels the last, so that every
step is a pass over contiguous numbers. Decays are taken as 2^(dt · A log₂e), three times faster than exp here.
Shapes: B batch, L length, D channels, N state size; b blocks of Q tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sidewinder.ops.dispatch import on_gpu
from sidewinder.ops.linear_scan import scan_backward_, scan_forward_

BLOCK_NUMBERS = 1 << 19
"""Tokens × D × N of a block: 2 MiB in float32. Half of it costs the same, twice as much a fifth more time."""
BLOCK_TOKENS = 16
"""Tokens a block at least, however large a state is: it bounds the states that are kept to L / 16."""


def selective_scan_reference(
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
    """The recurrence itself, token by token; a reset empties the state before its token."""
    batch, _, channels = x_BLD.shape
    if dt_bias_D is not None:
        dt_BLD = torch.log1p(torch.exp(dt_BLD + dt_bias_D))
    h_BDN = x_BLD.new_zeros(batch, channels, A_DN.shape[1]) if initial_BDN is None else initial_BDN
    outputs = []
    steps = zip(*(part.unbind(1) for part in (x_BLD, dt_BLD, B_BLN, C_BLN)), strict=True)
    for t, (x_BD, dt_BD, B_BN, C_BN) in enumerate(steps):
        if resets_BL is not None:
            h_BDN = h_BDN * ~resets_BL[:, t, None, None]
        h_BDN = torch.exp(dt_BD[..., None] * A_DN) * h_BDN + (dt_BD * x_BD)[..., None] * B_BN[:, None]
        outputs.append((h_BDN * C_BN[:, None]).sum(-1) + D_D * x_BD)
    y_BLD = torch.stack(outputs, dim=1)
    return (y_BLD if z_BLD is None else y_BLD * z_BLD * torch.sigmoid(z_BLD)), h_BDN


def selective_scan(
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
    """Outputs (B, L, D) in the dtype of `x`, and the state after the last token (B, D, N) in float32 at least.

    `dt` is the step size, positive, or with `dt_bias_D` what softplus(dt + bias) makes positive; `A` is negative. With
    `z_BLD` the output is y · silu(z). `resets_BL` is true at the first token of a document, where the state starts
    afresh. The arithmetic is float64 where `A` is, else float32.
    """
    if on_gpu(x_BLD):
        from sidewinder.ops.selective_scan_triton import selective_scan_triton

        options = {"z_BLD": z_BLD, "dt_bias_D": dt_bias_D, "initial_BDN": initial_BDN, "resets_BL": resets_BL}
        return selective_scan_triton(x_BLD, dt_BLD, A_DN, B_BLN, C_BLN, D_D, **options)
    dtype = torch.float64 if A_DN.dtype == torch.float64 else torch.float32
    if dt_bias_D is not None:
        dt_BLD = F.softplus(dt_BLD.to(dtype) + dt_bias_D.to(dtype))
    y_BLD, final_BDN = _plain(x_BLD, dt_BLD, A_DN, B_BLN, C_BLN, D_D, initial_BDN, resets_BL, dtype)
    if z_BLD is not None:
        y_BLD = y_BLD * F.silu(z_BLD.to(dtype))
    return y_BLD.to(x_BLD.dtype), final_BDN


def _plain(
    x_BLD: Tensor,
    dt_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    initial_BDN: Tensor | None,
    resets_BL: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The scan alone, in `dtype`."""
    if initial_BDN is None:
        initial_BDN = torch.zeros(x_BLD.shape[0], *A_DN.shape, dtype=dtype, device=x_BLD.device)
    if x_BLD.shape[1] == 1 and not torch.is_grad_enabled():
        step = (x_BLD[:, 0], dt_BLD[:, 0], A_DN, B_BLN[:, 0], C_BLN[:, 0], D_D, initial_BDN)
        return _step(*step, None if resets_BL is None else resets_BL[:, 0])
    inputs = (part.to(dtype) for part in (x_BLD, dt_BLD, A_DN, B_BLN, C_BLN, D_D, initial_BDN))
    y_BLD, final_BDN = _SelectiveScan.apply(*inputs, resets_BL, torch.is_grad_enabled())
    return y_BLD, final_BDN


def _step(
    x_BD: Tensor,
    dt_BD: Tensor,
    A_DN: Tensor,
    B_BN: Tensor,
    C_BN: Tensor,
    D_D: Tensor,
    h_BDN: Tensor,
    resets_B: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One token, as when decoding: the recurrence itself, in a few calls."""
    dtype = h_BDN.dtype
    x_BD, dt_BD = x_BD.to(dtype), dt_BD.to(dtype)
    decay_BDN = torch.exp(dt_BD[..., None] * A_DN)
    if resets_B is not None:
        decay_BDN = decay_BDN * ~resets_B[:, None, None]
    h_BDN = torch.addcmul((dt_BD * x_BD)[..., None] * B_BN.to(dtype)[:, None], h_BDN, decay_BDN)
    y_BD = (h_BDN @ C_BN.to(dtype)[..., None])[..., 0] + D_D * x_BD
    return y_BD[:, None], h_BDN


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BLD: Tensor,
        dt_BLD: Tensor,
        A_DN: Tensor,
        B_BLN: Tensor,
        C_BLN: Tensor,
        D_D: Tensor,
        initial_BDN: Tensor,
        resets_BL: Tensor | None,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        blocks = _Blocks(x_BLD, dt_BLD, A_DN, B_BLN, resets_BL)
        C_LBN = C_BLN.transpose(0, 1).contiguous()
        y_LBD, h_BND, entering = torch.empty_like(blocks.u_LBD), initial_BDN.mT.contiguous(), []
        for part in blocks.parts:
            if with_gradient:
                entering.append(h_BND)
            _, h_QBND = blocks.states(part, h_BND)
            _contract(C_LBN[part], h_QBND, out=y_LBD[part])
            h_BND = h_QBND[-1].clone()
        ctx.save_for_backward(x_BLD, dt_BLD, A_DN, B_BLN, C_LBN, D_D, resets_BL, *entering)
        ctx.set_materialize_grads(False)
        return torch.addcmul(y_LBD.transpose(0, 1), x_BLD, D_D, out=torch.empty_like(x_BLD)), h_BND.mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BLD: Tensor | None, d_final_BDN: Tensor | None) -> tuple[Tensor | None, ...]:
        x_BLD, dt_BLD, A_DN, B_BLN, C_LBN, D_D, resets_BL, *entering = ctx.saved_tensors
        blocks = _Blocks(x_BLD, dt_BLD, A_DN, B_BLN, resets_BL)
        dy_BLD = torch.zeros_like(x_BLD) if dy_BLD is None else dy_BLD
        d_BND = entering[0].new_zeros(entering[0].shape) if d_final_BDN is None else d_final_BDN.mT
        found = _gradients(blocks, dy_BLD.transpose(0, 1).contiguous(), C_LBN, entering, d_BND)
        du_BLD, ddt_BLD, dB_BLN, dC_BLN = (part.transpose(0, 1) for part in found[:4])
        dA_ND, d_initial_BND = found[4:]
        dx_BLD = torch.mul(dy_BLD, D_D, out=torch.empty_like(x_BLD)).addcmul_(du_BLD, dt_BLD)
        ddt_BLD = torch.addcmul(ddt_BLD, du_BLD, x_BLD, out=torch.empty_like(x_BLD))
        dD_D = torch.linalg.vecdot(dy_BLD.flatten(0, 1), x_BLD.flatten(0, 1), dim=0)
        return dx_BLD, ddt_BLD, dA_ND.mT, dB_BLN, dC_BLN, dD_D, d_initial_BND.mT, None, None


class _Blocks:
    """The blocks of one scan: their tokens, and their states from the state that enters them, in buffers used again."""

    def __init__(self, x_BLD: Tensor, dt_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, resets_BL: Tensor | None) -> None:
        batch, length, channels = x_BLD.shape
        self.dt_LBD, self.B_LBN = dt_BLD.transpose(0, 1), B_BLN.transpose(0, 1).contiguous()
        self.u_LBD = torch.mul(x_BLD.transpose(0, 1), self.dt_LBD, out=x_BLD.new_empty(length, batch, channels))
        self.A_ND = A_DN.mT.contiguous()
        self._rate_ND = self.A_ND * math.log2(math.e)
        self._resets_LB11 = None if resets_BL is None else resets_BL.mT[..., None, None]
        self.tokens = min(length, max(BLOCK_TOKENS, BLOCK_NUMBERS // (batch * A_DN.numel())))
        self.parts = [slice(start, min(start + self.tokens, length)) for start in range(0, length, self.tokens)]
        self._decay_QBND, self._state_QBND = self.buffer(), self.buffer()

    def buffer(self) -> Tensor:
        return self.u_LBD.new_empty(self.tokens, self.u_LBD.shape[1], *self.A_ND.shape)

    def states(self, part: slice, entering_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Decays and states (Q, B, N, D) of a block; they hold until the next call."""
        size = part.stop - part.start
        decay_QBND, state_QBND = self._decay_QBND[:size], self._state_QBND[:size]
        torch.mul(self.dt_LBD[part, :, None], self._rate_ND, out=decay_QBND).exp2_()
        if self._resets_LB11 is not None:
            decay_QBND.masked_fill_(self._resets_LB11[part], 0)
        torch.mul(self.u_LBD[part, :, None], self.B_LBN[part, ..., None], out=state_QBND)
        state_QBND[0].addcmul_(decay_QBND[0], entering_BND)
        scan_forward_(decay_QBND, state_QBND)
        return decay_QBND, state_QBND


def _gradients(
    blocks: _Blocks, dy_LBD: Tensor, C_LBN: Tensor, entering: list[Tensor], d_BND: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u = dt · x, dt (through the decay), B, C, A and the initial state; `d_BND` is the final state's."""
    u_LBD, A_ND = blocks.u_LBD, blocks.A_ND
    du_LBD, ddt_LBD = torch.empty_like(u_LBD), torch.empty_like(u_LBD)
    dB_LBN, dC_LBN, dA_ND = torch.empty_like(C_LBN), torch.empty_like(C_LBN), torch.zeros_like(A_ND)
    dh_buffer, product_buffer = blocks.buffer(), blocks.buffer()
    for part, entering_BND in zip(reversed(blocks.parts), reversed(entering), strict=True):
        decay_QBND, h_QBND = blocks.states(part, entering_BND)
        _contract(dy_LBD[part], h_QBND.mT, out=dC_LBN[part])
        dh_QBND = dh_buffer[: len(h_QBND)]
        torch.mul(dy_LBD[part, :, None], C_LBN[part, ..., None], out=dh_QBND)
        dh_QBND[-1] += d_BND
        scan_backward_(decay_QBND[1:], dh_QBND)
        _contract(u_LBD[part], dh_QBND.mT, out=dB_LBN[part])
        _contract(blocks.B_LBN[part], dh_QBND, out=du_LBD[part])
        # dh ∘ decay is the gradient of the state before; times that state, it is the gradient of dt · A.
        before_QBND = decay_QBND.mul_(dh_QBND)
        d_BND = before_QBND[0].clone()
        before_QBND[1:] *= h_QBND[:-1]
        before_QBND[0] *= entering_BND
        product_QBND = product_buffer[: len(h_QBND)]
        torch.sum(torch.mul(before_QBND, A_ND, out=product_QBND), 2, out=ddt_LBD[part])
        dA_ND += torch.mul(before_QBND, blocks.dt_LBD[part, :, None], out=product_QBND).sum((0, 1))
    return du_LBD, ddt_LBD, dB_LBN, dC_LBN, dA_ND, d_BND


def _contract(vector_QBX: Tensor, matrix_QBXY: Tensor, *, out: Tensor) -> None:
    """out[q, b, y] = Σ_x vector[q, b, x] · matrix[q, b, x, y], as one batched product."""
    torch.bmm(vector_QBX.flatten(0, 1)[:, None], matrix_QBXY.flatten(0, 1), out=out.flatten(0, 1)[:, None])
