"""Greedy generation through a model's caches.

Shapes: B batch, L length, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from sidewinder.evaluate.scoring import device_of
from sidewinder.model import LanguageModel


@torch.no_grad()
def generate_greedily(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    most_tokens: int,
    ended: Callable[[int, list[int]], bool] = lambda row, tokens: False,
) -> list[list[int]]:
    """Continuations of prompts of equal length, each of at most `most_tokens` tokens.

    `ended(row, tokens)` is asked after each token of a row; the token that makes it true is kept. Raises ValueError
    where the prompts differ in length, because a cache holds sequences of one length.
    """
    lengths = {len(prompt) for prompt in prompts}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"prompts must have one common length above 0, got {sorted(lengths)}")
    device = device_of(model)
    cache = model.new_cache(len(prompts))
    tokens_BL = torch.tensor([list(prompt) for prompt in prompts], dtype=torch.long, device=device)
    made: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    for _ in range(most_tokens):
        hidden_BLD = model.hidden(tokens_BL, cache)
        next_B = model.logits(hidden_BLD[:, -1]).argmax(-1)
        for row, token in enumerate(next_B.tolist()):
            if row in open_rows:
                made[row].append(token)
                if ended(row, made[row]):
                    open_rows.remove(row)
        if not open_rows:
            break
        tokens_BL = next_B[:, None]
    return made
