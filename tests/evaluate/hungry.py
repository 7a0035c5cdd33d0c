"""A model with too little memory."""

from __future__ import annotations

from typing import Any

import torch


class Hungry(torch.nn.Module):
    """A model that asks for more memory than any machine has where it reads more than `most` tokens at once, or more
    than `holds` come to be in a cache of several texts."""

    def __init__(self, model: Any, most: int, holds: float = float("inf")) -> None:
        super().__init__()
        self.model, self.most, self.holds, self.vocab_size = model, most, holds, model.vocab_size
        self.new_cache, self.logits, self.config = model.new_cache, model.logits, model.config

    def hidden(self, tokens_BL: torch.Tensor, *others: Any) -> torch.Tensor:
        held = tokens_BL.shape[0] * others[0].tokens if others else 0
        if tokens_BL.numel() > self.most or held + tokens_BL.numel() > self.holds:
            torch.empty(2**55)
        return self.model.hidden(tokens_BL, *others)
