"""Greedy generation through a model's caches.

Prompts of a batch may differ in length: all are read up to the end of the shortest, and from there on a row is fed what
is left of its prompt, token by token, before what it generates. So no sequence is padded.

Shapes: B batch, L length, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.scoring import device_of
from sidewinder.model import LanguageModel


@torch.no_grad()
def generate_greedily(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    most_tokens: int,
    ended: Callable[[int, list[int]], bool] = lambda row, tokens: False,
    name: Callable[[int], str] = lambda row: f"prompt {row}",
) -> list[list[int]]:
    """Continuations of prompts, each of at most `most_tokens` tokens.

    `ended(row, tokens)` is asked after each token of a row; the token that makes it true is kept. Raises ValueError
    where a prompt is empty, EvaluationError with the `name` of a row whose greatest logit is not finite.
    """
    shortest, longest = min(map(len, prompts), default=0), max(map(len, prompts), default=0)
    if not shortest:
        raise ValueError("every prompt must have a token")
    device = device_of(model)
    cache = model.new_cache(len(prompts))
    tokens_BL = torch.tensor([list(prompt[:shortest]) for prompt in prompts], dtype=torch.long, device=device)
    made: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    for at in range(shortest, longest + most_tokens):
        hidden_BLD = model.hidden(tokens_BL, cache)
        following, greatest = _greedy(model.logits(hidden_BLD[:, -1]))
        for row, prompt in enumerate(prompts):
            if at < len(prompt):
                following[row] = prompt[at]
            elif row in open_rows:
                if not math.isfinite(greatest[row]):
                    raise EvaluationError(
                        f"the greatest logit of {name(row)}, {len(made[row])} tokens into it, is {greatest[row]}",
                        remedy="the checkpoint's weights or activations are not finite: look at the run's loss, "
                        "lower its learning rate and train again",
                    )
                made[row].append(following[row])
                if len(made[row]) == most_tokens or ended(row, made[row]):
                    open_rows.remove(row)
        if not open_rows:
            break
        tokens_BL = torch.tensor(following, dtype=torch.long, device=device)[:, None]
    return made


def _greedy(logits_BV: Tensor) -> tuple[list[int], list[float]]:
    """The most likely tokens and their logits, which are NaN where any of a row's is; one transfer for both."""
    tokens_B = logits_BV.argmax(-1)
    logits_B = logits_BV.gather(-1, tokens_B[:, None])[:, 0]
    tokens, logits = torch.stack([tokens_B.double(), logits_B.double()]).tolist()
    return [int(token) for token in tokens], logits
