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

from sidewinder.ops.linear_scan import scan_backward_, scan_forward_


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
    batch, length, heads, channels = x_BLHP.shape
    per_group = heads // B_BLGN.shape[2]
    B_BLHN, C_BLHN = (part.repeat_interleave(per_group, dim=2) for part in (B_BLGN, C_BLGN))
    h_BHPN = x_BLHP.new_zeros(batch, heads, channels, B_BLGN.shape[3]) if initial_BHPN is None else initial_BHPN
    outputs = []
    for t in range(length):
        if resets_BL is not None:
            h_BHPN = h_BHPN * ~resets_BL[:, t, None, None, None]
        decay_BH11 = torch.exp(dt_BLH[:, t] * A_H)[..., None, None]
        input_BHPN = (dt_BLH[:, t, :, None] * x_BLHP[:, t])[..., None] * B_BLHN[:, t, :, None]
        h_BHPN = decay_BH11 * h_BHPN + input_BHPN
        outputs.append((h_BHPN * C_BLHN[:, t, :, None]).sum(-1) + D_H[:, None] * x_BLHP[:, t])
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
    batch, length, heads, channels = x_BLHP.shape
    dtype = torch.float64 if A_H.dtype == torch.float64 else torch.float32
    if initial_BHPN is None:
        initial_BHPN = torch.zeros(batch, heads, channels, B_BLGN.shape[3], dtype=dtype, device=x_BLHP.device)
    chunk = min(chunk, length)
    pad = -length % chunk
    if pad:
        x_BLHP, B_BLGN, C_BLGN = (F.pad(part, (0, 0, 0, 0, 0, pad)) for part in (x_BLHP, B_BLGN, C_BLGN))
        dt_BLH = F.pad(dt_BLH, (0, 0, 0, pad))
        resets_BL = None if resets_BL is None else F.pad(resets_BL, (0, pad))
    inputs = (part.to(dtype) for part in (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H, initial_BHPN))
    y_BLHP, final_BHPN = _Ssd.apply(*inputs, resets_BL, chunk)
    return y_BLHP[:, :length].to(x_BLHP.dtype), final_BHPN


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
    ) -> tuple[Tensor, Tensor]:
        x_cBHQP, dt_cBHQ = _chunks(x_BLHP, chunk), _chunks(dt_BLH, chunk).contiguous()
        B_cBGQN, C_cBGQN = _chunks(B_BLGN, chunk).contiguous(), _chunks(C_BLGN, chunk).contiguous()
        decays = _decays(dt_cBHQ, A_H, resets_BL)
        W_cBHQR = _coefficients(B_cBGQN, C_cBGQN, decays[0], decays[1])
        V_cBHRP = W_cBHQR.new_empty(*W_cBHQR.shape[:3], W_cBHQR.shape[-1], x_cBHQP.shape[-1])
        u_cBHQP, entering_cBHNP = V_cBHRP.tensor_split([chunk], dim=-2)
        torch.mul(x_cBHQP, dt_cBHQ[..., None], out=u_cBHQP)
        added_cBHNP = _product(_of_heads(B_cBGQN, decays[2][..., None]).mT, u_cBHQP)
        whole_cBH11 = decays[1][..., -1, None, None]
        entering_cBHNP[0] = initial_BHPN.mT
        entering_cBHNP[1:] = added_cBHNP[:-1]
        scan_forward_(F.pad(whole_cBH11[:-1], (0, 0, 0, 0, 0, 0, 0, 0, 1, 0)), entering_cBHNP)
        final_BHNP = torch.addcmul(added_cBHNP[-1], whole_cBH11[-1], entering_cBHNP[-1])
        y_cBHQP = _product(W_cBHQR, V_cBHRP)
        ctx.save_for_backward(
            x_BLHP, dt_cBHQ, A_H, B_cBGQN, C_cBGQN, D_H, *decays, W_cBHQR, V_cBHRP, y_cBHQP, final_BHNP
        )
        ctx.chunk = chunk
        ctx.set_materialize_grads(False)
        y_BcQHP = y_cBHQP.new_empty(x_BLHP.shape).unflatten(1, (-1, chunk))
        torch.addcmul(y_cBHQP.permute(1, 0, 3, 2, 4), x_BLHP.unflatten(1, (-1, chunk)), D_H[:, None], out=y_BcQHP)
        return y_BcQHP.flatten(1, 2), final_BHNP.mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BLHP: Tensor | None, d_final_BHPN: Tensor | None) -> tuple[Tensor | None, ...]:
        x_BLHP, dt_cBHQ, A_H, B_cBGQN, C_cBGQN, D_H, *decays, W_cBHQR, V_cBHRP, y_cBHQP, final_BHNP = ctx.saved_tensors
        dy_BLHP = torch.zeros_like(x_BLHP) if dy_BLHP is None else dy_BLHP
        d_final_BHNP = torch.zeros_like(final_BHNP) if d_final_BHPN is None else d_final_BHPN.mT
        dy_cBHQP = _chunks(dy_BLHP, ctx.chunk).contiguous()
        dW_cBHQR, dV_cBHRP = _product(dy_cBHQP, V_cBHRP.mT), _product(W_cBHQR.mT, dy_cBHQP)
        u_cBHQP, entering_cBHNP = V_cBHRP.tensor_split([ctx.chunk], dim=-2)
        du_cBHQP, d_entering_cBHNP = dV_cBHRP.tensor_split([ctx.chunk], dim=-2)
        d_added_cBHNP = _back_over_chunks(decays[1][..., -1, None, None], d_entering_cBHNP, d_final_BHNP)
        left_cBHQN = _of_heads(B_cBGQN, decays[2][..., None])
        du_cBHQP = _product(left_cBHQN, d_added_cBHNP).add_(du_cBHQP)
        dB_cBGQN, dC_cBGQN = _score_gradients(dW_cBHQR, _product(u_cBHQP, d_added_cBHNP.mT), B_cBGQN, C_cBGQN, decays)

        # Every output of token i has the factor exp(S_i), every input of token j the factor exp(−S_j), the state that
        # leaves a chunk the factor exp(S_Q): so the gradient of S follows from values and their gradients alone.
        dS_cBHQ = torch.linalg.vecdot(dy_cBHQP, y_cBHQP) - torch.linalg.vecdot(u_cBHQP, du_cBHQP)
        leaving_cBHNP = torch.cat([entering_cBHNP[1:], final_BHNP[None]])
        dS_cBHQ[..., -1] += torch.linalg.vecdot(leaving_cBHNP.flatten(-2), d_added_cBHNP.flatten(-2))
        d_rate_cBHQ = dS_cBHQ.flip(-1).cumsum(-1).flip(-1)

        du_BLHP = _tokens(du_cBHQP).contiguous()
        dt_BLH = _tokens(dt_cBHQ)
        ddt_BLH = torch.linalg.vecdot(x_BLHP, du_BLHP) + _tokens(d_rate_cBHQ * A_H[:, None])
        dA_H, dD_H = (d_rate_cBHQ * dt_cBHQ).sum((0, 1, 3)), torch.linalg.vecdot(x_BLHP, dy_BLHP).sum((0, 1))
        dx_BLHP = du_BLHP.mul_(dt_BLH[..., None]).addcmul_(dy_BLHP, D_H[:, None])
        d_initial_BHPN = d_entering_cBHNP[0].mT
        return dx_BLHP, ddt_BLH, dA_H, _tokens(dB_cBGQN), _tokens(dC_cBGQN), dD_H, d_initial_BHPN, None, None


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


def _back_over_chunks(whole_cBH11: Tensor, d_entering_cBHNP: Tensor, d_final_BHNP: Tensor) -> Tensor:
    """Completes, in place, the gradients of the states that enter chunks with what reaches them through later chunks.

    Returns the gradients of the states that leave chunks.
    """
    d_entering_cBHNP[-1].addcmul_(whole_cBH11[-1], d_final_BHNP)
    scan_backward_(whole_cBH11[:-1], d_entering_cBHNP)
    return torch.cat([d_entering_cBHNP[1:], d_final_BHNP[None]])


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
