"""A sequence read in stretches, each from an empty state, plus what passes between them, is the sequence read whole."""

from __future__ import annotations

import pytest
import torch

from sidewinder.ops.selective_scan import selective_scan_reference
from sidewinder.ops.ssd import ssd_reference
from sidewinder.ops.state_passing import ssd_of_state, total_decay


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(("groups", "heads"), [(1, 3), (2, 4)])
def test_ssd(groups: int, heads: int, resets: bool) -> None:
    torch.manual_seed(5)
    batch, length, channels, state = 3, 11, 5, 4
    x, dt, A = draw(batch, length, heads, channels), draw(batch, length, heads).exp(), -draw(heads).exp()
    B, C, D = draw(batch, length, groups, state), draw(batch, length, groups, state), draw(heads)
    initial = draw(batch, heads, channels, state)
    resets_BL = None
    if resets:
        resets_BL = torch.zeros(batch, length, dtype=torch.bool)
        resets_BL[1, 4] = resets_BL[1, 9] = resets_BL[2, 0] = True
    whole, final = ssd_reference(x, dt, A, B, C, D, initial_BHPN=initial, resets_BL=resets_BL)
    empty, own_final = ssd_reference(x, dt, A, B, C, D, resets_BL=resets_BL)
    torch.testing.assert_close(empty + ssd_of_state(initial, dt, A, C, resets_BL), whole)
    decay = total_decay(dt, A, resets_BL)[..., None, None]
    torch.testing.assert_close(own_final + decay * initial, final)


@pytest.mark.parametrize("resets", [False, True])
def test_selective_scan_state(resets: bool) -> None:
    torch.manual_seed(6)
    batch, length, channels, state = 3, 9, 4, 5
    x, dt, A = draw(batch, length, channels), draw(batch, length, channels).exp(), -draw(channels, state).exp()
    B, C, D = draw(batch, length, state), draw(batch, length, state), draw(channels)
    initial = draw(batch, channels, state)
    resets_BL = torch.zeros(batch, length, dtype=torch.bool) if resets else None
    if resets_BL is not None:
        resets_BL[0, 3] = True
    _, final = selective_scan_reference(x, dt, A, B, C, D, initial_BDN=initial, resets_BL=resets_BL)
    _, own_final = selective_scan_reference(x, dt, A, B, C, D, resets_BL=resets_BL)
    torch.testing.assert_close(own_final + total_decay(dt, A, resets_BL) * initial, final)
