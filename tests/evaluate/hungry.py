"""A model with too little memory."""

from __future__ import annotations

from typing import Any

import torch


class Hungry(torch.nn.Module):
    """A model that asks for more memory than any machine has where it reads more than `most` tokens at once."""

    def __init__(self, model: Any, most: int) -> None:
        super().__init__()
        self.model, self.most, self.vocab_size = model, most, model.vocab_size
        self.new_cache, self.logits = model.new_cache, model.logits

    def hidden(self, tokens_BL: torch.Tensor, *others: Any) -> torch.Tensor:
        if tokens_BL.numel() > self.most:
            torch.empty(2**55)
        return self.model.hidden(tokens_BL, *others)
