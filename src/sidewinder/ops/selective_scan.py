"""Mamba-1's selective scan (Gu and Dao, arXiv 2312.00752).

h[t] = exp(dt[t] A) ∘ h[t−1] + (dt[t] x[t]) ⊗ B[t],  y[t] = h[t] C[t] + D x[t], for each channel.
Shapes: B batch, L length, D channels, N state size; c chunks of Q tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_reference(
    x_BLD: Tensor,
    dt_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    *,
    initial_BDN: Tensor | None = None,
    resets_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence itself, token by token; a reset empties the state before its token."""
    batch, length, channels = x_BLD.shape
    h_BDN = x_BLD.new_zeros(batch, channels, A_DN.shape[1]) if initial_BDN is None else initial_BDN
    outputs = []
    for t in range(length):
        if resets_BL is not None:
            h_BDN = h_BDN * ~resets_BL[:, t, None, None]
        decay_BDN = torch.exp(dt_BLD[:, t, :, None] * A_DN)
        h_BDN = decay_BDN * h_BDN + (dt_BLD[:, t] * x_BLD[:, t])[..., None] * B_BLN[:, t, None]
        outputs.append((h_BDN * C_BLN[:, t, None]).sum(-1) + D_D * x_BLD[:, t])
    return torch.stack(outputs, dim=1), h_BDN


def selective_scan(
    x_BLD: Tensor,
    dt_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    *,
    initial_BDN: Tensor | None = None,
    resets_BL: Tensor | None = None,
    chunk: int = 16,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, L, D) and the state after the last token (B, D, N).

    `dt` is positive (after softplus), `A` negative. `resets_BL` is true at the first token of a document, where the
    state starts afresh.
    """
    length = x_BLD.shape[1]
    pad = -length % chunk
    decay_BLDN = torch.exp(dt_BLD[..., None] * A_DN)
    if resets_BL is not None:
        decay_BLDN = decay_BLDN * ~resets_BL[..., None, None]
    input_BLDN = (dt_BLD * x_BLD)[..., None] * B_BLN[:, :, None]
    if pad:
        decay_BLDN = F.pad(decay_BLDN, (0, 0, 0, 0, 0, pad), value=1.0)
        input_BLDN = F.pad(input_BLDN, (0, 0, 0, 0, 0, pad))
    decays = decay_BLDN.unflatten(1, (-1, chunk)).unbind(2)
    inputs = input_BLDN.unflatten(1, (-1, chunk)).unbind(2)
    local, whole = [inputs[0]], [decays[0]]
    for decay_BcDN, input_BcDN in zip(decays[1:], inputs[1:], strict=True):
        local.append(torch.addcmul(input_BcDN, decay_BcDN, local[-1]))
        whole.append(whole[-1] * decay_BcDN)
    h_BDN = input_BLDN.new_zeros(input_BLDN[:, 0].shape) if initial_BDN is None else initial_BDN
    entering = []
    for c in range(local[0].shape[1]):
        entering.append(h_BDN)
        h_BDN = torch.addcmul(local[-1][:, c], whole[-1][:, c], h_BDN)
    entering_BcQDN = torch.stack(entering, dim=1)[:, :, None]
    h_BLDN = torch.addcmul(torch.stack(local, dim=2), torch.stack(whole, dim=2), entering_BcQDN).flatten(1, 2)
    y_BLD = (h_BLDN[:, :length] @ C_BLN[..., None])[..., 0]
    return y_BLD + D_D * x_BLD, h_BDN
