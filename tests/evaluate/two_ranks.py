"""One of two processes of an evaluation: what they find together, and the complaint of one. `two_ranks.py <folder>`"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from sidewinder.config.model import ModelConfig
from sidewinder.errors import EvaluationError
from sidewinder.evaluate.adapter import SidewinderLM, Step
from sidewinder.evaluate.journal import Journal
from sidewinder.evaluate.ranks import Ranks, join
from sidewinder.evaluate.scoring import Item, score_items
from sidewinder.model import LanguageModel, init_weights

VOCABULARY = 50


def scores(ranks: Ranks) -> list[Any]:
    """Of nine sequences in batches of two or three, with the progress that was told."""
    config = ModelConfig(pattern="*-", hidden_size=16, attention={"heads": 2, "kv_heads": 2, "head_size": 8})
    model = LanguageModel(config, VOCABULARY)
    init_weights(model, seed=1)
    items = []
    for at in range(9):
        tokens = torch.randint(VOCABULARY, (5 + at,), generator=torch.Generator().manual_seed(at)).tolist()
        items.append(Item(f"item {at}", tokens, [(1, 3), (4, 5 + at)]))
    told: list[int] = []
    found = score_items(model, items, batch_tokens=30, advance=told.append, ranks=ranks)
    spans = [[(span.log_likelihood, span.argmax, span.exact) for span in one] for one in found]
    return [spans, sum(told)]


def complain(ranks: Ranks) -> str:
    def find() -> dict[str, int]:
        if ranks.rank:
            raise EvaluationError("the log-likelihood of x is nan", remedy="look at it")
        return {"x": 1}

    try:
        ranks.together(find)
    except EvaluationError as error:
        return f"{error.everywhere} {error}"
    return "nothing"


def answers(ranks: Ranks) -> list[Any]:
    """Those of both processes, of which the second has too little memory for batches of 8 tokens."""
    config = ModelConfig(pattern="-", hidden_size=16, mlp={"size": 16})
    subject: Any = SimpleNamespace(model=LanguageModel(config, VOCABULARY), title="x", context_tokens=8)
    lm = SidewinderLM(subject=subject, batch_tokens=8, ranks=ranks, journal=Journal())

    def answer(place: int) -> dict[str, int]:
        if ranks.rank == 1 and lm.batch_tokens == 8 and place > 2:
            raise MemoryError
        return {str(place): lm.batch_tokens}

    def steps() -> list[Step]:
        return [Step(1, partial(answer, place)) for place in range(7) if str(place) not in lm.journal]

    lm._answer("answers", "sample", steps)
    return [lm.journal[str(place)] for place in range(7)]


if __name__ == "__main__":
    joined = join()
    found = {"complaint": complain(joined), "scores": scores(joined), "answers": answers(joined)}
    (Path(sys.argv[1]) / f"{joined.rank}.json").write_text(json.dumps(found))
