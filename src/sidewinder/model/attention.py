"""Attention layers (`*`): causal, with grouped keys and values, and rotary positions where the model has them.

Shapes: B batch, L length, D hidden, H query heads, K key-value heads, E head size, T keys, N documents, S all tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sidewinder.config.model import ModelConfig
from sidewinder.model.cache import AttentionCache, LayerCache
from sidewinder.model.parts import Linear
from sidewinder.model.share import Mixer
from sidewinder.ops.causal_conv1d import token_age
from sidewinder.ops.rope import rope

QUERY_BLOCK = 1024
"""Queries a call where an explicit mask is needed: the mask is (B, 1, block, keys), never (B, 1, L, L)."""
MOST_DOCUMENTS = 65_535
"""As the second dimension of a GPU's grid: more, as of padding, are left to the mask."""
MASKED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""What a GPU may use with such a mask. cuDNN's form, torch's first choice on Hopper, gives NaN as a gradient where 64
keys are left over from blocks of 128 and all scores of a query are very negative (pytorch/pytorch issue 196678)."""


class Attention(Mixer):
    """Causal softmax attention with grouped keys and values (paper, section 2; GQA, arXiv 2305.13245), no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.attention
        self.heads, self.kv_heads, self.head_size = sizes.heads, sizes.kv_heads, sizes.head_size
        self.rotated = int(sizes.head_size * sizes.rope.fraction) if sizes.rope else 0
        self.rope_base = sizes.rope.base if sizes.rope else 0.0
        self.q_proj = Linear(config.hidden_size, sizes.heads * sizes.head_size)
        self.k_proj = Linear(config.hidden_size, sizes.kv_heads * sizes.head_size)
        self.v_proj = Linear(config.hidden_size, sizes.kv_heads * sizes.head_size)
        self.o_proj = Linear(sizes.heads * sizes.head_size, config.hidden_size)

    def forward(self, x_BLD: Tensor, cache: LayerCache = None, resets_BL: Tensor | None = None) -> Tensor:
        """Output (B, L, D). With a cache, `x` continues the tokens in it."""
        assert cache is None or isinstance(cache, AttentionCache)
        q_BLHE = self.q_proj(x_BLD).unflatten(-1, (self.heads, self.head_size))
        k_BLKE = self.k_proj(x_BLD).unflatten(-1, (self.kv_heads, self.head_size))
        v_BKLE = self.v_proj(x_BLD).unflatten(-1, (self.kv_heads, self.head_size)).transpose(1, 2)
        length = q_BLHE.shape[1]
        offset = self.context.rank * length if self.context else cache.length if cache else 0
        if self.rotated:
            q_BLHE = rope(q_BLHE, self.rotated, self.rope_base, offset)
            k_BLKE = rope(k_BLKE, self.rotated, self.rope_base, offset)
        q_BHLE, k_BKTE, v_BKTE = q_BLHE.transpose(1, 2), k_BLKE.transpose(1, 2), v_BKLE
        age_BL = None if resets_BL is None else token_age(resets_BL)
        if cache is not None:
            k_BKTE, v_BKTE = cache.append(k_BKTE, v_BKTE)
        elif self.context is not None:
            end = offset + length
            k_BKTE, v_BKTE = (self.context.gather(part, 2)[:, :, :end] for part in (k_BKTE, v_BKTE))
            age_BL = None if resets_BL is None else token_age(self.context.gather(resets_BL, 1))[:, offset:end]
        return self.o_proj(attend(q_BHLE, k_BKTE, v_BKTE, age_BL).transpose(1, 2).flatten(2))

    def new_cache(self, batch: int, like: Tensor, max_tokens: int | None) -> AttentionCache:
        """Room for keys and values of `batch` sequences; `max_tokens` bounds it."""
        return AttentionCache(batch, self.kv_heads, self.head_size, like, max_tokens)


def attend(q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, age_BL: Tensor | None = None) -> Tensor:
    """Causal attention of the last L of T tokens; with ages, only to tokens of the same document.

    The age of a token is the number of tokens before it in its document.
    """
    grouped = q_BHLE.shape[1] != k_BKTE.shape[1]
    length, keys = q_BHLE.shape[2], k_BKTE.shape[2]
    if age_BL is None and (length == keys or length == 1):
        return F.scaled_dot_product_attention(q_BHLE, k_BKTE, v_BKTE, is_causal=length > 1, enable_gqa=grouped)
    if age_BL is None and q_BHLE.is_cuda:
        from torch.nn.attention.bias import causal_lower_right  # It imports the compiler, which takes a second.

        mask = causal_lower_right(length, keys)
        return F.scaled_dot_product_attention(q_BHLE, k_BKTE, v_BKTE, attn_mask=mask, enable_gqa=grouped)
    if age_BL is not None and length == keys and _fits_flash(q_BHLE):
        ends_N = document_ends(age_BL)
        if len(ends_N) <= MOST_DOCUMENTS:
            return _each_document(q_BHLE, k_BKTE, v_BKTE, ends_N)
    before = keys - length
    place_L = torch.arange(before, keys, device=q_BHLE.device)
    age_BL = place_L[None] if age_BL is None else age_BL
    parts = []
    for start in range(0, length, QUERY_BLOCK):
        part = slice(start, start + QUERY_BLOCK)
        end = before + min(start + QUERY_BLOCK, length)
        distance_LT = place_L[part, None] - torch.arange(end, device=q_BHLE.device)
        mask_B1LT = ((distance_LT >= 0) & (distance_LT <= age_BL[:, part, None]))[:, None]
        parts.append(_masked(q_BHLE[:, :, part], k_BKTE[:, :, :end], v_BKTE[:, :, :end], mask_B1LT))
    return torch.cat(parts, dim=2)


def _fits_flash(q_BHLE: Tensor) -> bool:
    """Whether FlashAttention takes such queries: half precision, and whole units of memory."""
    return q_BHLE.is_cuda and q_BHLE.dtype in (torch.bfloat16, torch.float16) and q_BHLE.shape[-1] % 8 == 0


def _each_document(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, ends_N: Tensor) -> Tensor:
    """Every document a sequence of its own: no score between two documents is computed, as a mask would have it."""
    from torch.nn.attention.varlen import varlen_attn

    batch, heads, length, _ = q_BHLE.shape
    longest = int(ends_N.diff().max())
    q_SHE, k_SHE, v_SHE = (_ungrouped(part, heads).transpose(1, 2).flatten(0, 1) for part in (q_BHLE, k_BHLE, v_BHLE))
    causal = (-1, 0)
    out_SHE = varlen_attn(q_SHE, k_SHE, v_SHE, ends_N, ends_N, longest, longest, window_size=causal)
    assert isinstance(out_SHE, Tensor)
    return out_SHE.unflatten(0, (batch, length)).transpose(1, 2)


def document_ends(age_BL: Tensor) -> Tensor:
    """Where documents end (1 + N, int32) when all sequences lie one after another, a 0 before them."""
    begins_BL = age_BL == 0
    begins_BL[:, 0] = True
    return F.pad(begins_BL.flatten().nonzero()[:, 0], (0, 1), value=age_BL.numel()).int()


def _ungrouped(part_BKTE: Tensor, heads: int) -> Tensor:
    """Each query head with keys, or values, of its own."""
    share = heads // part_BKTE.shape[1]
    return part_BKTE.repeat_interleave(share, dim=1) if share > 1 else part_BKTE


def _masked(q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, mask_B1LT: Tensor) -> Tensor:
    heads = q_BHLE.shape[1]
    if not q_BHLE.is_cuda:
        grouped = heads != k_BKTE.shape[1]
        return F.scaled_dot_product_attention(q_BHLE, k_BKTE, v_BKTE, attn_mask=mask_B1LT, enable_gqa=grouped)
    # Of those that may be used, none that is fast knows groups.
    k_BKTE, v_BKTE = (_ungrouped(part, heads) for part in (k_BKTE, v_BKTE))
    with sdpa_kernel(MASKED):
        return F.scaled_dot_product_attention(q_BHLE, k_BKTE, v_BKTE, attn_mask=mask_B1LT)
