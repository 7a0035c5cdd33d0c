"""Our models behind lm-eval's model interface, registered as `sidewinder`.

Log-likelihoods are those of lm-eval's own `hf` model on the exported checkpoint: a context is taken as it is, an empty
one becomes the end-of-document token, and what does not fit is cut on the left (counted in `truncated`); but prompts of
LongBench in the middle, as its authors do. Choices of a question are read after one pass over their common beginning
(prefix.py). With torchrun, processes share the batches.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.generation import generate_greedily
from sidewinder.evaluate.generation_plan import Asked, plan_generation
from sidewinder.evaluate.journal import Journal, request_key
from sidewinder.evaluate.mendable import OutOfMemory, ran_out_of_memory
from sidewinder.evaluate.opened import open_subject
from sidewinder.evaluate.prefix import Batch, plan, score_batch
from sidewinder.evaluate.ranks import Ranks, join
from sidewinder.evaluate.scoring import BATCH_TOKENS, Item, device_of, state_tokens
from sidewinder.evaluate.subject import Subject
from sidewinder.progress import Progress

MOST_GENERATED_TOKENS = 256  # As lm-eval's `hf`, where a task does not say.
CACHE_TOKENS = {"cpu": 4_096, "cuda": 65_536}
"""Tokens in the caches at once, states counted as such: prompts and answers, or texts with a common beginning."""
Pair = tuple[tuple[str, str], list[int], list[int]]
Answers = dict[str, Any]
OUT_OF_MEMORY = ""
"""Stands among answers for the complaint of a process; no request has this key."""


@dataclass(frozen=True)
class Step:
    """A batch that is to be answered, and its share of the progress."""

    size: int
    answers: Callable[[], Answers]


@register_model("sidewinder")
class SidewinderLM(TemplateLM):
    """A folder with a checkpoint of ours or of Hugging Face's form (`pretrained`), or a loaded Subject."""

    def __init__(
        self,
        pretrained: str | os.PathLike[str] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        *,
        subject: Subject | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        journal: Journal | None = None,
        ranks: Ranks | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        **ignored: Any,
    ) -> None:
        """`max_length` is the longest input in tokens; by default the context that the checkpoint was trained on.

        `checkpoint` is another word for `pretrained`. Options of lm-eval's that mean nothing here are ignored.
        """
        super().__init__()
        self.ranks = ranks or join()
        self.subject = subject or open_subject(pretrained or checkpoint, tokenizer, device, dtype)
        self.max_length = int(max_length or self.subject.context_tokens)
        kind = device_of(self.subject.model).type
        self.batch_tokens = int(batch_tokens or BATCH_TOKENS[kind])
        self.cache_tokens = int(batch_tokens or CACHE_TOKENS[kind])
        self.state_tokens = state_tokens(self.subject.model)
        self.journal = journal or Journal()
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

    # Log-likelihoods

    def _loglikelihood_tokens(
        self, requests: list[Pair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        keys = [request_key("loglikelihood", key, self.max_length) for key, _, _ in requests]
        items = [self._item(*request) for request in requests]
        self._score("log-likelihoods", keys, items, [context for (context, _), _, _ in requests])
        answers = [(float(self.journal[key][0]), bool(self.journal[key][1])) for key in keys]
        for (pair, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts; every token is predicted once, in windows of `max_length`."""
        items: list[Item] = []
        keys: list[str] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            (text,) = request.args
            for place, (context, continuation) in enumerate(self._windows(text)):
                items.append(self._item((text, ""), context, continuation))
                keys.append(request_key("rolling", (text, place), self.max_length))
                owners.append(owner)
        self._score("rolling log-likelihoods", keys, items, keys)
        totals = [0.0] * len(requests)
        for owner, key in zip(owners, keys, strict=True):
            totals[owner] += self.journal[key][0]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

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

    def _score(self, what: str, keys: list[str], items: list[Item], families: list[str]) -> None:
        """Puts (log-likelihood, greedy) of every item that has none into the journal."""

        def steps() -> list[Step]:
            places = {key: place for place, key in enumerate(keys) if key not in self.journal}
            asked, names = [items[place] for place in places.values()], list(places)
            common = [families[place] for place in places.values()]
            batches = plan(asked, common, self.batch_tokens, self.cache_tokens, self.state_tokens)
            return [Step(batch.cost_tokens, partial(self._scored, asked, names, batch)) for batch in batches]

        self._answer(what, "token", steps)

    def _scored(self, asked: list[Item], names: list[str], batch: Batch) -> Answers:
        scores = score_batch(self.subject.model, asked, batch)
        return {names[at]: [score.log_likelihood, score.exact] for at, score in scores.items()}

    def _answer(self, what: str, unit: str, steps: Callable[[], list[Step]]) -> None:
        """Takes the steps, and where the memory does not suffice, once more what is left, in batches half as large."""
        told = self._taken(what, unit, steps())
        if told:
            self.batch_tokens, self.cache_tokens = self.batch_tokens // 2 or 1, self.cache_tokens // 2 or 1
            torch.cuda.empty_cache()
            told = self._taken(what, unit, steps())
        if told:
            tokens = self.cache_tokens if what == "generation" else self.batch_tokens
            raise OutOfMemory(
                f"the memory does not suffice for {what} in batches of {2 * tokens} tokens, nor of {tokens}: {told}",
                remedy=f"set the suite's `batch_tokens` below {tokens}, on which no result depends but by rounding, or "
                "take a machine with more memory",
            )

    def _taken(self, what: str, unit: str, steps: list[Step]) -> str:
        """Shares the steps, puts their answers into the journal, and tells where the memory did not suffice."""

        def own() -> Answers:
            found: Answers = {}
            for mine, everyones in self.ranks.rounds(steps):
                for step in mine:
                    try:
                        made = step.answers()
                    except (MemoryError, RuntimeError) as error:
                        if not ran_out_of_memory(error):
                            raise
                        return found | {OUT_OF_MEMORY: str(error).split("\n")[0] or type(error).__name__}
                    self.journal.add(made)
                    found |= made
                progress.update(sum(step.size for step in everyones))
            return found

        with self._progress(what, sum(step.size for step in steps), unit) as progress:
            found = self.ranks.together(own)
        told = found.pop(OUT_OF_MEMORY, "")
        self.journal.add(found, write=False)
        return str(told)

    # Generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, cut before the first stop string."""
        asked = [self._asked(request) for request in requests]

        def steps() -> list[Step]:
            missing = {one.key: one for one in asked if one.key not in self.journal}
            batches = plan_generation(list(missing.values()), self.cache_tokens, self.state_tokens)
            return [Step(len(batch), partial(self._generated, batch)) for batch in batches]

        self._answer("generation", "sample", steps)
        for request, one in zip(requests, asked, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, self.journal[one.key])
        return [self.journal[one.key] for one in asked]

    def _asked(self, request: Instance) -> Asked:
        """As much of a request's prompt as leaves room for the answer; what is cut is counted, answered or not."""
        context, settings = request.args
        stops, most_tokens = self._generation_settings(dict(settings))
        tokens = self.tok_encode(context) or [self.prefix_token_id]
        room = self.max_length - most_tokens
        self.truncated += len(tokens) > room
        of = f" ({request.task_name}, sample {request.doc_id})" if request.task_name else ""
        prompt = fitted(tokens, room, request.task_name)
        key = request_key("generate_until", request.args, self.max_length, prompt == tokens[-room:])
        return Asked(key, f"the answer to {context[-40:]!r}{of}", prompt, most_tokens, tuple(stops))

    def _generated(self, batch: Sequence[Asked]) -> Answers:
        stops = list(batch[0].stops)
        prompts = [one.prompt for one in batch]
        tokens = generate_greedily(
            self.subject.model, prompts, batch[0].most_tokens, self._ends(stops), lambda row: batch[row].name
        )
        texts = [postprocess_generated_text(self.tok_decode(continuation), stops, None) for continuation in tokens]
        return {one.key: text for one, text in zip(batch, texts, strict=True)}

    def _generation_settings(self, settings: dict[str, Any]) -> tuple[list[str], int]:
        """Stop strings and the number of tokens as lm-eval's `hf` reads them: the number has several names, and a
        temperature alone asks for sampled text. Raises EvaluationError where that is asked for.
        """
        read = normalize_gen_kwargs(settings, MOST_GENERATED_TOKENS)
        if read["do_sample"]:
            raise EvaluationError(
                f"a task asks for sampled text ({settings}), but generation here is greedy",
                remedy="set do_sample to false in the task's generation_kwargs",
            )
        most_tokens = read["max_gen_toks"]
        if most_tokens >= self.max_length:
            raise EvaluationError(
                f"a task generates up to {most_tokens} tokens, but the model reads {self.max_length} in all",
                remedy="lower max_gen_toks in the task, or evaluate a checkpoint with a longer context",
            )
        return [stop for stop in read["until"] if stop], most_tokens

    def _ends(self, stops: list[str]) -> Callable[[int, list[int]], bool]:
        eos, longest = self.subject.start, max((len(stop.encode()) for stop in stops), default=0)

        def ended(row: int, tokens: list[int]) -> bool:
            if tokens[-1] == eos:
                return True
            # Every token adds a byte at least, so a stop string that has just ended lies in the last `longest` tokens.
            tail = self.tok_decode(tokens[-longest - 1 :]) if longest else ""
            return any(stop in tail for stop in stops)

        return ended

    def _progress(self, what: str, total: int, unit: str) -> Progress:
        return Progress(f"{self.subject.title} {what}", total=total, unit=unit, silent=self.ranks.rank > 0)


def fitted(tokens: list[int], room: int, task: str | None) -> list[int]:
    """A prompt's last `room` tokens; of LongBench's its first and last, half each.

    Instructions stand at both ends there, and its authors cut between (github.com/THUDM/LongBench, pred.py).
    """
    if len(tokens) <= room or not (task or "").startswith("longbench"):
        return tokens[-room:]
    last = room // 2
    return tokens[: room - last] + tokens[len(tokens) - last :]
