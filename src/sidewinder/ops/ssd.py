"""Mamba-2's scan by state-space duality (Dao and Gu, arXiv 2405.21060): chunks of matrix products.

h[t] = exp(dt[t] A) h[t−1] + dt[t] x[t] ⊗ B[t],  y[t] = h[t] C[t] + D x[t], for each head; heads of a group share B, C.
Shapes: B batch, L length, H heads, P channels a head, G groups, N state size; c chunks of Q tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Outputs (B, L, H, P) and the state after the last token (B, H, P, N).

    `dt` is positive (after softplus), `A` negative. Any length: the tail of the last chunk is padded with dt = 0.
    `resets_BL` is true at the first token of a document, where the state starts afresh.
    """
    length, heads = x_BLHP.shape[1:3]
    pad = -length % chunk
    if pad:
        x_BLHP, B_BLGN, C_BLGN = (F.pad(part, (0, 0, 0, 0, 0, pad)) for part in (x_BLHP, B_BLGN, C_BLGN))
        dt_BLH = F.pad(dt_BLH, (0, 0, 0, pad))
        resets_BL = None if resets_BL is None else F.pad(resets_BL, (0, pad))
    groups, per_group = B_BLGN.shape[2], heads // B_BLGN.shape[2]
    x_BcQHP = x_BLHP.unflatten(1, (-1, chunk))
    u_BcHQP = (x_BcQHP * dt_BLH.unflatten(1, (-1, chunk))[..., None]).transpose(2, 3)
    B_BcGQN, C_BcGQN = (part.unflatten(1, (-1, chunk)).transpose(2, 3) for part in (B_BLGN, C_BLGN))
    S_BcHQ = (dt_BLH * A_H).unflatten(1, (-1, chunk)).transpose(2, 3).cumsum(-1)
    before_BcQ = None if resets_BL is None else resets_BL.unflatten(1, (-1, chunk)).cumsum(-1)

    difference_BcHQQ = S_BcHQ[..., :, None] - S_BcHQ[..., None, :]
    allowed = torch.ones(chunk, chunk, dtype=torch.bool, device=x_BLHP.device).tril()
    enter_BcHQ, leave_BcHQ = S_BcHQ.exp(), (S_BcHQ[..., -1:] - S_BcHQ).exp()
    if before_BcQ is not None:
        allowed = (allowed & (before_BcQ[..., :, None] == before_BcQ[..., None, :]))[:, :, None]
        enter_BcHQ = enter_BcHQ * (before_BcQ == 0)[:, :, None]
        leave_BcHQ = leave_BcHQ * (before_BcQ == before_BcQ[..., -1:])[:, :, None]
    decay_BcHQQ = difference_BcHQQ.masked_fill(~allowed, -torch.inf).exp()

    def of_heads(part: Tensor) -> Tensor:
        return part.repeat_interleave(per_group, dim=2) if per_group * groups != groups else part

    score_BcGQQ = C_BcGQN @ B_BcGQN.mT
    y_BcHQP = (of_heads(score_BcGQQ) * decay_BcHQQ) @ u_BcHQP
    added_BcHPN = (u_BcHQP * leave_BcHQ[..., None]).mT @ of_heads(B_BcGQN)
    state_BHPN = x_BLHP.new_zeros(added_BcHPN[:, 0].shape) if initial_BHPN is None else initial_BHPN
    states = []
    for c in range(added_BcHPN.shape[1]):
        states.append(state_BHPN)
        state_BHPN = state_BHPN * enter_BcHQ[:, c, :, -1, None, None] + added_BcHPN[:, c]
    entering_BcHPN = torch.stack(states, dim=1)
    y_BcHQP = y_BcHQP + (of_heads(C_BcGQN) @ entering_BcHPN.mT) * enter_BcHQ[..., None]
    y_BcQHP = y_BcHQP.transpose(2, 3) + x_BcQHP * D_H[:, None]
    return y_BcQHP.flatten(1, 2)[:, :length], state_BHPN
