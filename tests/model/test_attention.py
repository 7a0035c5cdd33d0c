"""Attention over the last tokens of many, with and without documents, against the full score matrix."""

from __future__ import annotations

import pytest
import torch

from sidewinder.model import attention
from sidewinder.model.attention import attend, document_ends
from sidewinder.ops.causal_conv1d import token_age


def _plain(q_BHLE, k_BKTE, v_BKTE, resets_BL):
    repeats = q_BHLE.shape[1] // k_BKTE.shape[1]
    k_BHTE, v_BHTE = (part.repeat_interleave(repeats, dim=1) for part in (k_BKTE, v_BKTE))
    scores = q_BHLE @ k_BHTE.mT / q_BHLE.shape[-1] ** 0.5
    batch, length, keys = q_BHLE.shape[0], q_BHLE.shape[2], k_BKTE.shape[2]
    for b in range(batch):
        for i in range(length):
            place = keys - length + i
            first = 0
            if resets_BL is not None and resets_BL[b, : i + 1].any():
                first = keys - length + int(resets_BL[b, : i + 1].nonzero().max())
            scores[b, :, i, :first] = scores[b, :, i, place + 1 :] = -torch.inf
    return scores.softmax(-1) @ v_BHTE


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (1, 20), (20, 20), (7, 20)])
@pytest.mark.parametrize("packed", [False, True])
def test_equals_the_full_score_matrix(kv_heads, length, keys, packed, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 6)
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q_BHLE, k_BKTE, v_BKTE = draw(2, 4, length, 8), draw(2, kv_heads, keys, 8), draw(2, kv_heads, keys, 8)
    resets_BL = torch.rand(2, length, generator=generator) < 0.3 if packed else None
    expected = _plain(q_BHLE, k_BKTE, v_BKTE, resets_BL)
    torch.testing.assert_close(attend(q_BHLE, k_BKTE, v_BKTE, token_age(resets_BL) if packed else None), expected)


def test_documents_end_where_others_begin_and_with_their_sequence():
    resets_BL = torch.tensor([[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]], dtype=torch.bool)
    assert document_ends(token_age(resets_BL)).tolist() == [0, 2, 3, 5, 9, 10]
