"""Scoring by teacher forcing: one forward pass gives log-likelihood and greedy agreement of given continuations.

At each place of a scored span the model sees the true tokens before it. Greedy decoding reproduces a span exactly when
the argmax is right at every place: up to the first wrong token both see the same text, so they differ at the same
place or nowhere. After a first wrong token the two may part; the argmax reported there is still the one after the
*true* text, which is what "share of digits right" means throughout.

Sequences are padded on the right, which no causal model can see, and batches depend on lengths alone: results are the
same from run to run, and differ by float rounding alone when other sequences share the batch.

Shapes: B batch, L length, D hidden size, N scored places of a batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.mendable import OutOfMemory, ran_out_of_memory
from sidewinder.evaluate.ranks import Ranks
from sidewinder.model import LanguageModel

# Tokens of one forward pass, padding included; a longer sequence goes alone. On a CPU small batches stay in its caches
# (measured at hidden size 64: twice the speed of 4,096 tokens).
BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_384}
ALONE = Ranks()
LOGIT_VALUES = 2**25  # Logits held at once (128 MiB in float32): at 256,000 pieces that is 131 places.


@dataclass(frozen=True)
class Item:
    """A sequence and the half-open spans [start, end) of it that are scored; 1 ≤ start < end ≤ length."""

    name: str
    tokens: Sequence[int]
    spans: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class SpanScore:
    """What a model makes of one span. `log_likelihood` is in nats; `argmax` has a token for every place."""

    log_likelihood: float
    argmax: list[int]
    exact: bool


def score_items(
    model: LanguageModel,
    items: Sequence[Item],
    *,
    batch_tokens: int | None = None,
    advance: Callable[[int], None] = lambda tokens: None,
    ranks: Ranks = ALONE,
) -> list[list[SpanScore]]:
    """Scores of every span of every item, in their order; the batches are shared by `ranks`.

    `advance` is told the tokens of each finished batch, those of the other processes beside it included. A batch for
    which the memory does not suffice is halved. Raises EvaluationError, naming the item, where a log-likelihood is not
    finite, OutOfMemory where the memory does not suffice for an item by itself.
    """
    # The last token of an item's last span is predicted but never read.
    lengths = [max(end for _, end in item.spans) - 1 for item in items]
    most = batch_tokens or BATCH_TOKENS[device_of(model).type]

    def own() -> dict[int, list[SpanScore]]:
        scores: dict[int, list[SpanScore]] = {}
        for mine, everyones in ranks.rounds(batches(lengths, most)):
            for batch in mine:
                found = _score_or_halve(model, [items[place] for place in batch], [lengths[place] for place in batch])
                scores |= dict(zip(batch, found, strict=True))
            advance(sum(lengths[place] for batch in everyones for place in batch))
        return scores

    scores = ranks.together(own)
    return [scores[place] for place in range(len(items))]


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Places of sequences, longest first, in groups whose padded size is at most `batch_tokens`."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    groups: list[list[int]] = []
    for place in order:
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= batch_tokens:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def padded(sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Sequences as one (B, L) tensor, padded on the right with token 0."""
    tokens_BL = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        tokens_BL[row, : len(sequence)] = torch.as_tensor(sequence, dtype=torch.long)
    return tokens_BL.to(device)


def device_of(model: LanguageModel) -> torch.device:
    return next(model.parameters()).device


def state_tokens(model: LanguageModel) -> int:
    """What the state of a sequence takes, however long it is, in tokens of a cache that has keys and values as wide as
    the model in every layer: 261 in a Mamba-2 of 1.4B parameters, 94 MB. Short texts hold little else."""
    cache, width = model.new_cache(1), model.config.hidden_size
    token_bytes = 2 * width * len(cache.layers) * next(model.parameters()).element_size()
    return math.ceil(cache.nbytes() / token_bytes)


def _score_or_halve(model: LanguageModel, items: Sequence[Item], lengths: Sequence[int]) -> list[list[SpanScore]]:
    try:
        return _score_batch(model, items, lengths)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        if len(items) == 1:
            raise OutOfMemory(
                f"the memory does not suffice for {items[0].name} by itself, {lengths[0]:,} tokens: {error}",
                remedy="take a machine with more memory, or leave lengths like this out of the suite",
            ) from error
    torch.cuda.empty_cache()  # Here, where the error no longer holds the batch's tensors.
    half = len(items) // 2
    parts = (slice(half), slice(half, None))
    return [scores for part in parts for scores in _score_or_halve(model, items[part], lengths[part])]


@torch.no_grad()
def _score_batch(model: LanguageModel, items: Sequence[Item], lengths: Sequence[int]) -> list[list[SpanScore]]:
    device = device_of(model)
    inputs_BL = padded([item.tokens[:length] for item, length in zip(items, lengths, strict=True)], device)
    hidden_BLD = model.hidden(inputs_BL)
    rows: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    for row, item in enumerate(items):
        for start, end in item.spans:
            rows.extend([row] * (end - start))
            places.extend(range(start - 1, end - 1))
            targets.extend(int(token) for token in item.tokens[start:end])
    log_likelihoods, argmax = predictions(model, hidden_BLD, rows, places, targets)
    return split(items, targets, log_likelihoods, argmax)


def predictions(
    model: LanguageModel, hidden_BLD: Tensor, rows: Sequence[int], places: Sequence[int], targets: Sequence[int]
) -> tuple[list[float], list[int]]:
    """Log-likelihood of each target after the token at (row, place), and the argmax there; a block at a time."""
    device = hidden_BLD.device
    hidden_ND = hidden_BLD[torch.tensor(rows, device=device), torch.tensor(places, device=device)]
    return _predictions(model, hidden_ND, torch.tensor(targets, device=device))


def _predictions(model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor) -> tuple[list[float], list[int]]:
    """Log-likelihood of each target and the argmax at its place, a block of places at a time."""
    log_likelihoods: list[float] = []
    argmax: list[int] = []
    block = max(1, LOGIT_VALUES // model.vocab_size)
    for hidden_nD, targets_n in zip(hidden_ND.split(block), targets_N.split(block), strict=True):
        logits_nV = model.logits(hidden_nD).float()
        chosen_n = logits_nV.gather(1, targets_n[:, None])[:, 0]
        log_likelihoods.extend((chosen_n - logits_nV.logsumexp(1)).tolist())
        argmax.extend(logits_nV.argmax(1).tolist())
    return log_likelihoods, argmax


def split(
    items: Sequence[Item], targets: Sequence[int], log_likelihoods: list[float], argmax: list[int]
) -> list[list[SpanScore]]:
    """Flat predictions back into spans."""
    scores: list[list[SpanScore]] = []
    at = 0
    for item in items:
        scores.append([])
        for start, end in item.spans:
            part = slice(at, at + end - start)
            total = math.fsum(log_likelihoods[part])
            if not math.isfinite(total):
                raise EvaluationError(
                    f"the log-likelihood of {item.name} (tokens {start} to {end}) is {total}",
                    remedy="the checkpoint's weights or activations are not finite: look at the run's loss, "
                    "lower its learning rate and train again",
                )
            scores[-1].append(SpanScore(total, argmax[part], argmax[part] == targets[part]))
            at = part.stop
    return scores
