"""What passes from one stretch of a sequence to the next, when stretches are read apart (context parallelism).

The scans are linear in their state: a stretch read from an empty state, and what the state that really enters adds to
it, sum to the stretch read as a whole.
Shapes: B batch, L length, H heads (for Mamba-1 each channel is one), P channels a head, G groups, N state size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def total_decay(dt_BLH: Tensor, A: Tensor, resets_BL: Tensor | None = None) -> Tensor:
    """What is left of a state after all L tokens: exp(A Σ dt), 0 where a document begins on the way.

    `A` is (H) or (H, N); the result is (B, H) or (B, H, N), in the dtype of `A`.
    """
    dt_BH = dt_BLH.to(A.dtype).sum(1)
    decay = torch.exp(dt_BH * A if A.ndim == 1 else dt_BH[..., None] * A)
    if resets_BL is None:
        return decay
    kept_B = ~resets_BL.any(1)
    return decay * kept_B.view(-1, *[1] * (decay.ndim - 1))


def ssd_of_state(
    entering_BHPN: Tensor, dt_BLH: Tensor, A_H: Tensor, C_BLGN: Tensor, resets_BL: Tensor | None = None
) -> Tensor:
    """What an entering state adds to the outputs of `ssd` (B, L, H, P), in the dtype of `C`.

    Token t sees the state decayed by exp(A Σ dt) over the tokens up to t, and nothing after a reset.
    """
    groups = C_BLGN.shape[2]
    decay_BLH = torch.exp(dt_BLH.to(A_H.dtype).cumsum(1) * A_H)
    if resets_BL is not None:
        decay_BLH = decay_BLH * (resets_BL.cumsum(1) == 0)[..., None]
    state_BGhPN = entering_BHPN.to(C_BLGN.dtype).unflatten(1, (groups, -1))
    seen_BLHP = torch.einsum("blgn,bghpn->blghp", C_BLGN, state_BGhPN).flatten(2, 3)
    return (seen_BLHP * decay_BLH[..., None]).to(C_BLGN.dtype)
