"""Mamba-2's scan by state-space duality (Dao and Gu, arXiv 2405.21060): chunks of matrix products.

h[t] = exp(dt[t] A) h[t−1] + dt[t] x[t] ⊗ B[t],  y[t] = h[t] C[t] + D x[t], for each head; heads of a group share B, C.

The fast form, for a chunk with u = dt x, decay exp(S) within it, and state h entering it:

    y = (C Bᵀ ∘ exp(S_i − S_j), i ≥ j) u + (exp(S_i) C) hᵀ = [M | C'] [u ; hᵀ],   leaving = exp(S_Q) h + B'ᵀ u,

with B' = exp(S_Q − S_j) B. So a chunk is one product with the joined matrices W = [M | C'] and V = [u ; hᵀ].
Chunks come first in every array, so that the recurrence over them runs along the first dimension.
Shapes: B batch, L length, H heads, P channels a head, G groups of heads, N state size; c chunks of Q tokens; R = Q + N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sidewinder.ops.dispatch import on_gpu
from sidewinder.ops.linear_scan import scan_backward_, scan_forward_

LARGEST_STATE = 256
"""State size up to which a program of the GPU's kernels can hold what it needs; the plain form takes any."""
BLOCK_TOKENS = 1024
"""Tokens of a block, over the whole batch: what a block needs should stay in the cache nearest to the core."""


def ssd_reference(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    D_H: Tensor,
    *,
    initial_BHPN: Tensor | None = None,
    resets_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence itself, token by token; a reset empties the state before its token."""
    batch, _, heads, channels = x_BLHP.shape
    per_group = heads // B_BLGN.shape[2]
    B_BLHN, C_BLHN = (part.repeat_interleave(per_group, dim=2) for part in (B_BLGN, C_BLGN))
    h_BHPN = x_BLHP.new_zeros(batch, heads, channels, B_BLGN.shape[3]) if initial_BHPN is None else initial_BHPN
    outputs = []
    steps = zip(*(part.unbind(1) for part in (x_BLHP, dt_BLH, B_BLHN, C_BLHN)), strict=True)
    for t, (x_BHP, dt_BH, B_BHN, C_BHN) in enumerate(steps):
        if resets_BL is not None:
            h_BHPN = h_BHPN * ~resets_BL[:, t, None, None, None]
        decay_BH11 = torch.exp(dt_BH * A_H)[..., None, None]
        h_BHPN = decay_BH11 * h_BHPN + (dt_BH[..., None] * x_BHP)[..., None] * B_BHN[:, :, None]
        outputs.append((h_BHPN * C_BHN[:, :, None]).sum(-1) + D_H[:, None] * x_BHP)
    return torch.stack(outputs, dim=1), h_BHPN


def ssd(
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
    """Outputs (B, L, H, P) in the dtype of `x`, and the state after the last token (B, H, P, N) in float32 at least.

    `dt` is positive (after softplus), `A` negative. Any length: the tail of the last chunk is padded with dt = 0.
    `resets_BL` is true at the first token of a document, where the state starts afresh. The arithmetic is float64 where
    `A` is, else float32.
    """
    if on_gpu(x_BLHP) and B_BLGN.shape[3] <= LARGEST_STATE:
        from sidewinder.ops.ssd_triton import ssd_triton

        states = {"initial_BHPN": initial_BHPN, "resets_BL": resets_BL}
        return ssd_triton(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H, chunk=chunk, **states)
    batch, length, heads, channels = x_BLHP.shape
    dtype = torch.float64 if A_H.dtype == torch.float64 else torch.float32
    if initial_BHPN is None:
        initial_BHPN = torch.zeros(batch, heads, channels, B_BLGN.shape[3], dtype=dtype, device=x_BLHP.device)
    if length == 1 and not torch.is_grad_enabled():
        step = (x_BLHP[:, 0], dt_BLH[:, 0], A_H, B_BLGN[:, 0], C_BLGN[:, 0], D_H, initial_BHPN)
        return _step(*step, None if resets_BL is None else resets_BL[:, 0])
    chunk = min(chunk, length)
    pad = -length % chunk
    if pad:
        x_BLHP, B_BLGN, C_BLGN = (F.pad(part, (0, 0, 0, 0, 0, pad)) for part in (x_BLHP, B_BLGN, C_BLGN))
        dt_BLH = F.pad(dt_BLH, (0, 0, 0, pad))
        resets_BL = None if resets_BL is None else F.pad(resets_BL, (0, pad))
    inputs = (part.to(dtype) for part in (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H, initial_BHPN))
    y_BLHP, final_BHPN = _Ssd.apply(*inputs, resets_BL, chunk, torch.is_grad_enabled())
    return y_BLHP[:, :length].to(x_BLHP.dtype), final_BHPN


def _step(
    x_BHP: Tensor,
    dt_BH: Tensor,
    A_H: Tensor,
    B_BGN: Tensor,
    C_BGN: Tensor,
    D_H: Tensor,
    h_BHPN: Tensor,
    resets_B: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One token, as when decoding: the recurrence itself, in a few calls."""
    dtype, per_group = h_BHPN.dtype, x_BHP.shape[1] // B_BGN.shape[1]
    wide_BHP, dt_BH = x_BHP.to(dtype), dt_BH.to(dtype)
    decay_BH = torch.exp(dt_BH * A_H)
    if resets_B is not None:
        decay_BH = decay_BH * ~resets_B[:, None]
    B_BHN, C_BHN = (part.to(dtype).repeat_interleave(per_group, 1) for part in (B_BGN, C_BGN))
    u_BHP1 = (wide_BHP * dt_BH[..., None])[..., None]
    h_BHPN = torch.addcmul(u_BHP1 * B_BHN[:, :, None], h_BHPN, decay_BH[..., None, None])
    y_BHP = (h_BHPN @ C_BHN[..., None])[..., 0] + D_H[:, None] * wide_BHP
    return y_BHP.to(x_BHP.dtype)[:, None], h_BHPN


_Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]


class _Ssd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BLHP: Tensor,
        dt_BLH: Tensor,
        A_H: Tensor,
        B_BLGN: Tensor,
        C_BLGN: Tensor,
        D_H: Tensor,
        initial_BHPN: Tensor,
        resets_BL: Tensor | None,
        chunk: int,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        inputs = (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, resets_BL)
        y_BLHP, h_BHNP, entering = x_BLHP.new_empty(x_BLHP.shape), initial_BHPN.mT.contiguous(), []
        for part in _parts(x_BLHP, chunk):
            if with_gradient:
                entering.append(h_BHNP)
            block = _Block(inputs, part, chunk)
            h_BHNP = block.enter(h_BHNP)
            y_cBHQP = _product(block.W_cBHQR, block.V_cBHRP)
            out_BcQHP = y_BLHP[:, part].unflatten(1, (-1, chunk))
            x_BcQHP = x_BLHP[:, part].unflatten(1, (-1, chunk))
            torch.addcmul(y_cBHQP.permute(1, 0, 3, 2, 4), x_BcQHP, D_H[:, None], out=out_BcQHP)
        ctx.save_for_backward(*inputs, D_H, *entering)
        ctx.chunk = chunk
        ctx.set_materialize_grads(False)
        return y_BLHP, h_BHNP.mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BLHP: Tensor | None, d_final_BHPN: Tensor | None) -> tuple[Tensor | None, ...]:
        x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, resets_BL, D_H, *entering = ctx.saved_tensors
        inputs = (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, resets_BL)
        dy_BLHP = torch.zeros_like(x_BLHP) if dy_BLHP is None else dy_BLHP
        dh_BHNP = torch.zeros_like(entering[0]) if d_final_BHPN is None else d_final_BHPN.mT
        dx_BLHP, ddt_BLH, dB_BLGN, dC_BLGN = (part.new_empty(part.shape) for part in (x_BLHP, dt_BLH, B_BLGN, C_BLGN))
        dA_H, dD_H = torch.zeros_like(A_H), torch.zeros_like(D_H)
        for part, h_BHNP in zip(reversed(_parts(x_BLHP, ctx.chunk)), reversed(entering), strict=True):
            block = _Block(inputs, part, ctx.chunk)
            block.enter(h_BHNP)
            dy_BlHP, x_BlHP, dt_BlH = dy_BLHP[:, part], x_BLHP[:, part], dt_BLH[:, part]
            dh_BHNP, du_BlHP, d_from_BlH, dB_BLGN[:, part], dC_BLGN[:, part] = block.gradients(dy_BlHP, dh_BHNP)
            # Every output of token i has the factor exp(S_i) and every input of token j the factor exp(−S_j), so the
            # gradient of S follows from values and their gradients: no gradient of a decay is ever needed.
            slope_BlH = torch.linalg.vecdot(x_BlHP, du_BlHP)
            d_rate_BlH = _from_later(torch.addcmul(d_from_BlH, slope_BlH, dt_BlH, value=-1), ctx.chunk)
            if resets_BL is not None:
                d_rate_BlH.masked_fill_(resets_BL[:, part, None], 0)
            torch.addcmul(slope_BlH, d_rate_BlH, A_H, out=ddt_BLH[:, part])
            dA_H += torch.linalg.vecdot(d_rate_BlH, dt_BlH, dim=1).sum(0)
            dD_H += torch.linalg.vecdot(x_BlHP, dy_BlHP).sum((0, 1))
            torch.mul(du_BlHP, dt_BlH[..., None], out=dx_BLHP[:, part]).addcmul_(dy_BlHP, D_H[:, None])
        return dx_BLHP, ddt_BLH, dA_H, dB_BLGN, dC_BLGN, dD_H, dh_BHNP.mT, None, None, None


def _parts(x_BLHP: Tensor, chunk: int) -> list[slice]:
    """The tokens of each block: whole chunks, as many as fit BLOCK_TOKENS over the batch."""
    batch, length = x_BLHP.shape[:2]
    tokens = max(1, BLOCK_TOKENS // (batch * chunk)) * chunk
    return [slice(start, min(start + tokens, length)) for start in range(0, length, tokens)]


class _Block:
    """A few chunks of every sequence: what they are multiplied by, made from the inputs whenever it is needed."""

    def __init__(self, inputs: _Inputs, part: slice, chunk: int) -> None:
        x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, resets_BL = inputs
        self.chunk = chunk
        dt_cBHQ = _chunks(dt_BLH[:, part], chunk).contiguous()
        self.B_cBGQN = _chunks(B_BLGN[:, part], chunk).contiguous()
        self.C_cBGQN = _chunks(C_BLGN[:, part], chunk).contiguous()
        self.decays = _decays(dt_cBHQ, A_H, None if resets_BL is None else resets_BL[:, part])
        self.W_cBHQR = _coefficients(self.B_cBGQN, self.C_cBGQN, *self.decays[:2])
        self.left_cBHQN = _of_heads(self.B_cBGQN, self.decays[2][..., None])
        self.V_cBHRP = self.W_cBHQR.new_empty(*self.W_cBHQR.shape[:3], self.W_cBHQR.shape[-1], x_BLHP.shape[-1])
        self.u_cBHQP, self.entering_cBHNP = self.V_cBHRP.tensor_split([chunk], dim=-2)
        torch.mul(_chunks(x_BLHP[:, part], chunk), dt_cBHQ[..., None], out=self.u_cBHQP)
        self.whole_cBH11 = self.decays[1][..., -1, None, None]

    def enter(self, h_BHNP: Tensor) -> Tensor:
        """Writes the states that enter the chunks, from the one that enters the first; returns the one that leaves."""
        added_cBHNP = _product(self.left_cBHQN.mT, self.u_cBHQP)
        self.entering_cBHNP[0] = h_BHNP
        self.entering_cBHNP[1:] = added_cBHNP[:-1]
        scan_forward_(self.whole_cBH11.roll(1, 0), self.entering_cBHNP)
        self.final_BHNP = torch.addcmul(added_cBHNP[-1], self.whole_cBH11[-1], self.entering_cBHNP[-1])
        return self.final_BHNP

    def gradients(self, dy_BLHP: Tensor, d_final_BHNP: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gradients of the entering state, of u = dt · x, of S through what comes out at a token, of B and of C."""
        dy_cBHQP = _chunks(dy_BLHP, self.chunk).contiguous()
        dW_cBHQR, dV_cBHRP = _product(dy_cBHQP, self.V_cBHRP.mT), _product(self.W_cBHQR.mT, dy_cBHQP)
        du_cBHQP, d_entering_cBHNP = dV_cBHRP.tensor_split([self.chunk], dim=-2)
        d_entering_cBHNP[-1].addcmul_(self.whole_cBH11[-1], d_final_BHNP)
        scan_backward_(self.whole_cBH11[:-1], d_entering_cBHNP)
        d_added_cBHNP = torch.cat([d_entering_cBHNP[1:], d_final_BHNP[None]])
        du_cBHQP = _product(self.left_cBHQN, d_added_cBHNP).add_(du_cBHQP)
        d_from_cBHQ = torch.linalg.vecdot(dW_cBHQR, self.W_cBHQR)
        leaving_cBHNP = torch.cat([self.entering_cBHNP[1:], self.final_BHNP[None]])
        d_from_cBHQ[..., -1] += torch.linalg.vecdot(leaving_cBHNP.flatten(-2), d_added_cBHNP.flatten(-2))
        d_left_cBHQN = _product(self.u_cBHQP, d_added_cBHNP.mT)
        dB_cBGQN, dC_cBGQN = _score_gradients(dW_cBHQR, d_left_cBHQN, self.B_cBGQN, self.C_cBGQN, self.decays)
        tokens = (_tokens(part) for part in (du_cBHQP, d_from_cBHQ, dB_cBGQN, dC_cBGQN))
        return d_entering_cBHNP[0], *tokens  # type: ignore[return-value]


def _decays(dt_cBHQ: Tensor, A_H: Tensor, resets_BL: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Decays from token j to token i of a chunk (any number above the diagonal), from the chunk's start through token
    i, and from token j to the chunk's end; zero where a reset lies between."""
    # exp2 is three times as fast as exp here.
    S_cBHQ = (dt_cBHQ * (A_H * math.log2(math.e))[:, None]).cumsum(-1)
    within_cBHQQ = (S_cBHQ[..., :, None] - S_cBHQ[..., None, :]).clamp_(max=0).exp2_()
    enter_cBHQ, leave_cBHQ = S_cBHQ.exp2(), (S_cBHQ[..., -1:] - S_cBHQ).exp2_()
    if resets_BL is not None:
        passed_cB1Q = _chunks(resets_BL[..., None], dt_cBHQ.shape[-1]).cumsum(-1)
        within_cBHQQ *= passed_cB1Q[..., :, None] == passed_cB1Q[..., None, :]
        enter_cBHQ *= passed_cB1Q == 0
        leave_cBHQ *= passed_cB1Q == passed_cB1Q[..., -1:]
    return within_cBHQQ, enter_cBHQ, leave_cBHQ


def _coefficients(B_cBGQN: Tensor, C_cBGQN: Tensor, within_cBHQQ: Tensor, enter_cBHQ: Tensor) -> Tensor:
    """W = [C Bᵀ ∘ decay | decay C], (c, B, H, Q, Q + N)."""
    chunk, state = B_cBGQN.shape[3:]
    W_cBHQR = within_cBHQQ.new_empty(*within_cBHQQ.shape[:-1], chunk + state)
    score_cBGQQ = _product(C_cBGQN, B_cBGQN.mT)
    score_cBGQQ.flatten(0, 2).tril_()
    _of_heads(score_cBGQQ, within_cBHQQ, out=W_cBHQR[..., :chunk])
    _of_heads(C_cBGQN, enter_cBHQ[..., None], out=W_cBHQR[..., chunk:])
    return W_cBHQR


def _score_gradients(
    dW_cBHQR: Tensor, d_left_cBHQN: Tensor, B_cBGQN: Tensor, C_cBGQN: Tensor, decays: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Gradients of B and C, through scores within a chunk and through states; overwrites its first two arguments."""
    within_cBHQQ, enter_cBHQ, leave_cBHQ = decays
    chunk, groups = B_cBGQN.shape[3], B_cBGQN.shape[2]
    d_score_cBGQQ = _of_group(dW_cBHQR[..., :chunk] * within_cBHQQ, groups)
    d_score_cBGQQ.flatten(0, 2).tril_()
    dB_cBGQN = _product(d_score_cBGQQ.mT, C_cBGQN).add_(_of_group(d_left_cBHQN.mul_(leave_cBHQ[..., None]), groups))
    d_enter_cBHQN = dW_cBHQR[..., chunk:].mul_(enter_cBHQ[..., None])
    return dB_cBGQN, _product(d_score_cBGQQ, B_cBGQN).add_(_of_group(d_enter_cBHQN, groups))


def _chunks(part_BLX: Tensor, chunk: int) -> Tensor:
    """(B, L, X, …) as a view (c, B, X, Q, …)."""
    return part_BLX.unflatten(1, (-1, chunk)).transpose(0, 1).transpose(2, 3)


def _tokens(part_cBXQ: Tensor) -> Tensor:
    """(c, B, X, Q, …) as (B, L, X, …)."""
    return part_cBXQ.transpose(2, 3).transpose(0, 1).flatten(1, 2)


def _from_later(part_BLH: Tensor, chunk: int) -> Tensor:
    """Sums over a token and the later ones of its chunk."""
    later_QQ = torch.ones(chunk, chunk, dtype=part_BLH.dtype, device=part_BLH.device).triu_()
    return torch.matmul(later_QQ, part_BLH.unflatten(1, (-1, chunk))).flatten(1, 2)


def _product(left_cBHmk: Tensor, right_cBHkn: Tensor) -> Tensor:
    """Matrix products over all of c, B, H as one batch."""
    found = torch.bmm(left_cBHmk.flatten(0, 2), right_cBHkn.flatten(0, 2))
    return found.view(*left_cBHmk.shape[:-1], right_cBHkn.shape[-1])


def _of_heads(shared_cBGmn: Tensor, each_cBHmn: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiplies what a group shares with what each of its heads has."""
    if out is None:
        shape = torch.broadcast_shapes(each_cBHmn.shape[3:], shared_cBGmn.shape[3:])
        out = each_cBHmn.new_empty(*each_cBHmn.shape[:3], *shape)
    split = (shared_cBGmn.shape[2], -1)
    torch.mul(shared_cBGmn[:, :, :, None], each_cBHmn.unflatten(2, split), out=out.unflatten(2, split))
    return out


def _of_group(each_cBHmn: Tensor, groups: int) -> Tensor:
    """Sums over the heads of each group."""
    return each_cBHmn.unflatten(2, (groups, -1)).sum(3)
