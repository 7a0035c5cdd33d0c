"""Our models behind lm-eval's model interface, registered as `sidewinder`.

Log-likelihoods are those of lm-eval's own `hf` model on the exported checkpoint: a context is taken as it is, an empty
one becomes the end-of-document token, and what does not fit is cut on the left (counted in `truncated`).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.generation import generate_greedily
from sidewinder.evaluate.scoring import BATCH_TOKENS, Item, SpanScore, device_of, score_items
from sidewinder.evaluate.subject import Subject
from sidewinder.model.checkpoint import load_model
from sidewinder.progress import Progress
from sidewinder.tokenizer import load

MOST_GENERATED_TOKENS = 256  # As lm-eval's `hf`, where a task does not say.
Pair = tuple[tuple[str, str], list[int], list[int]]


@register_model("sidewinder")
class SidewinderLM(TemplateLM):
    """A checkpoint folder and a tokenizer.model, or a loaded Subject."""

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        *,
        subject: Subject | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        device: str | None = None,
        **ignored: Any,
    ) -> None:
        """`max_length` is the longest input in tokens; by default the context that the checkpoint was trained on."""
        super().__init__()
        if subject is None:
            subject = _load(checkpoint, tokenizer, device or "cpu")
        self.subject = subject
        self.max_length = int(max_length or subject.context_tokens)
        self.batch_tokens = int(batch_tokens or BATCH_TOKENS[device_of(subject.model).type])
        self.truncated = 0

    @property
    def eot_token_id(self) -> int:
        return self.subject.start

    @property
    def tokenizer_name(self) -> str:
        return "sidewinder"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.subject.encode(string)

    def tok_decode(self, tokens: Iterable[int]) -> str:
        return b"".join(self.subject.pieces[token] for token in tokens).decode(errors="replace")

    def _loglikelihood_tokens(
        self, requests: list[Pair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        scores = self._score("log-likelihoods", [self._item(*request) for request in requests])
        answers = [(score.log_likelihood, score.exact) for score in scores]
        for (key, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", key, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts; every token is predicted once, in windows of `max_length`."""
        items: list[Item] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            (text,) = request.args
            for context, continuation in self._windows(text):
                items.append(self._item((text, ""), context, continuation))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, score in zip(owners, self._score("rolling log-likelihoods", items), strict=True):
            totals[owner] += score.log_likelihood
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, cut before the first stop string."""
        made: list[str] = [""] * len(requests)
        with Progress(f"{self.subject.title} generation", total=len(requests), unit="sample") as progress:
            for places, prompts, most_tokens, stops in self._generation_batches(requests):
                tokens = generate_greedily(self.subject.model, prompts, most_tokens, self._ends(stops))
                for place, continuation in zip(places, tokens, strict=True):
                    made[place] = cut_at(self.tok_decode(continuation), stops)
                    self.cache_hook.add_partial("generate_until", requests[place].args, made[place])
                progress.update(len(places))
        return made

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        tokens = self.tok_encode(text)
        windows = get_rolling_token_windows(
            tokens, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
        )
        return map(make_disjoint_window, windows)

    def _item(self, key: tuple[str, str], context: list[int], continuation: list[int]) -> Item:
        """The last `max_length` inputs and the token after them; the continuation is scored."""
        name = f"the continuation {key[1][:40]!r} of {key[0][-40:]!r}" if key[1] else f"the text {key[0][:40]!r}"
        if not continuation or len(continuation) > self.max_length:
            raise EvaluationError(
                f"{name} has {len(continuation)} tokens; the model reads 1 to {self.max_length}",
                remedy="leave the task out, or evaluate a checkpoint with a longer context",
            )
        tokens = (context + continuation)[-(self.max_length + 1) :]
        self.truncated += len(tokens) < len(context) + len(continuation)
        return Item(name, tokens, [(len(tokens) - len(continuation), len(tokens))])

    def _score(self, what: str, items: list[Item]) -> list[SpanScore]:
        total = sum(len(item.tokens) - 1 for item in items)
        with Progress(f"{self.subject.title} {what}", total=total, unit="token") as progress:
            scores = score_items(self.subject.model, items, batch_tokens=self.batch_tokens, advance=progress.update)
        return [spans[0] for spans in scores]

    def _generation_batches(
        self, requests: list[Instance]
    ) -> Iterator[tuple[list[int], list[list[int]], int, list[str]]]:
        """Requests with equal prompt length and settings together: (places, prompts, most tokens, stop strings)."""
        groups: dict[tuple[int, int, tuple[str, ...]], list[tuple[int, list[int]]]] = defaultdict(list)
        for place, request in enumerate(requests):
            context, settings = request.args
            stops, most_tokens = self._generation_settings(dict(settings))
            tokens = self.tok_encode(context) or [self.prefix_token_id]
            room = self.max_length - most_tokens
            self.truncated += len(tokens) > room
            prompt = tokens[-room:]
            groups[len(prompt), most_tokens, tuple(stops)].append((place, prompt))
        for (length, most_tokens, stops_key), members in sorted(groups.items(), reverse=True):
            rows = max(1, self.batch_tokens // (length + most_tokens))
            for start in range(0, len(members), rows):
                part = members[start : start + rows]
                yield [place for place, _ in part], [prompt for _, prompt in part], most_tokens, list(stops_key)

    def _generation_settings(self, settings: dict[str, Any]) -> tuple[list[str], int]:
        """Stop strings and the number of tokens. Raises EvaluationError where sampling is asked for."""
        if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
            raise EvaluationError(
                f"a task asks for sampled text ({settings}), but generation here is greedy",
                remedy="set do_sample to false in the task's generation_kwargs",
            )
        most_tokens = int(settings.get("max_gen_toks", MOST_GENERATED_TOKENS))
        if most_tokens >= self.max_length:
            raise EvaluationError(
                f"a task generates up to {most_tokens} tokens, but the model reads {self.max_length} in all",
                remedy="lower max_gen_toks in the task, or evaluate a checkpoint with a longer context",
            )
        until = settings.get("until") or []
        return [until] if isinstance(until, str) else list(until), most_tokens

    def _ends(self, stops: list[str]) -> Callable[[int, list[int]], bool]:
        eos, longest = self.subject.start, max((len(stop.encode()) for stop in stops), default=0)

        def ended(row: int, tokens: list[int]) -> bool:
            if tokens[-1] == eos:
                return True
            # Every token adds a byte at least, so a stop string that has just ended lies in the last `longest` tokens.
            tail = self.tok_decode(tokens[-longest - 1 :]) if longest else ""
            return any(stop in tail for stop in stops)

        return ended


def cut_at(text: str, stops: list[str]) -> str:
    """The text before the first stop string in it."""
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text


def _load(checkpoint: Any, tokenizer: Any, device: str) -> Subject:
    if checkpoint is None or tokenizer is None:
        raise EvaluationError(
            "the model `sidewinder` needs a checkpoint folder and a tokenizer",
            remedy="--model_args checkpoint=FOLDER,tokenizer=FILE",
        )
    model, info = load_model(Path(checkpoint), torch.device(device))
    name, imported = Path(checkpoint).name, "imported_from" in info.extra
    return Subject(name, model, info.context_tokens, load(Path(tokenizer)), imported=imported)
