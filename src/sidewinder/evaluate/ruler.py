"""RULER's 13 tasks (Hsieh et al., arXiv 2404.06654) made to a length in our own tokenizer, without a network.

Templates, random draws and scorers are those of lm-eval's modules. What is different, and why:

- *Length*: prompt and room for the answer fill between 99 % and 100 % of the target. lm-eval adds noise in steps of up
  to 500 words, which is a tenth of 4K. Where whole lines or documents come in too large units, other draws are tried;
  below RULER's own lengths, where a line alone is several per cent, the fullest of them may be shorter.
- *Seeds*: a sample is a function of seed, task, length, tokenizer and its place, and of nothing else on the machine.
- *Sentences*: needles go between what ends with a full stop and a space, not between sentences as NLTK's tables tell.
- *Example*: ruler_vt's is drawn anew for each sample; lm-eval draws one, and renames its variables.
- *Text*: RULER's essays from the data folder, or the topics of Python's documentation; repeated where too short.
- *QA score*: the best of the references, as RULER's own scorer; lm-eval's gives a third for one of three references.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.local_data import LocalData
from sidewinder.evaluate.presets import SHORTEST_TOKENS
from sidewinder.evaluate.ruler_tasks import NEEDLES, PLACES, Maker, Sample, maker_for

SHARE_FILLED = 0.99
DRAWS = 60
"""Draws tried for one sample that would fall short of the target."""
ROOM = {"niah": 128, "ruler_vt": 30, "ruler_cwe": 120, "ruler_fwe": 50, "ruler_qa_squad": 32, "ruler_qa_hotpot": 32}
"""Tokens to generate, of the prompt's target length."""


def make(
    task: str,
    length_tokens: int,
    samples: int,
    encode: Callable[[str], Sequence[int]],
    *,
    seed: int,
    data: LocalData | None = None,
    haystack: str = "essays",
) -> list[Sample]:
    """Samples in the form of lm-eval's own, all of that length.

    A question whose own documents do not fit is passed over, and the next one asked: `skipped` of a sample tells how
    many were before it. Raises MissingData where the task's text is not at hand, EvaluationError where no sample fits
    the length, or the text is too short for it.
    """
    room = ROOM["niah"] if task in NEEDLES else ROOM[task]
    maker = maker_for(task, length_tokens, data, haystack)
    fitter = Fitter(task, length_tokens - room, lambda sample: len(encode(prompt_of(task, sample))), maker)
    fitter.may_be_short = length_tokens < SHORTEST_TOKENS
    made: list[Sample] = []
    skipped = 0
    for place in itertools.count():
        if len(made) == samples:
            break
        found = fitter.sample(f"ruler {seed} {task} {length_tokens} {place}", place)
        if found:
            length = found[1] + room
            about = {"index": len(made), "length": length, "max_length": length_tokens, "skipped": skipped}
            made.append(found[0] | about)
        elif not made:
            fitter.give_up(place)
        skipped = 0 if found else skipped + (place < maker.places)
    return made


def prompt_of(task: str, sample: Sample) -> str:
    """What lm-eval makes of a sample: the text, a delimiter, the beginning of the answer."""
    return f"{sample['input']}{DELIMITERS.get(task, ' ')}{sample['gen_prefix']}"


DELIMITERS = {"ruler_cwe": "\n\n"}


@dataclass
class Fitter:
    """Finds for each sample the largest size that fits; the size of one sample is the first guess for the next."""

    task: str
    room: int
    count: Callable[[Sample], int]
    maker: Maker
    may_be_short: bool = False
    guess: int = 10
    unit: float = 0.0
    """Tokens of one unit of noise, as last seen."""
    unfilled: int = 0
    """Places at which something fits, but no draw fills the room."""

    def sample(self, seed: str, place: int) -> tuple[Sample, int] | None:
        """The first of DRAWS that fills the room, and its tokens; else None, or the fullest where it may be short.

        Raises EvaluationError where all of the task's text together does not.
        """
        fullest: tuple[Sample, int] | None = None
        for draw in range(DRAWS):
            largest = self._largest(f"{seed} {draw}", place)
            if largest is None:
                return fullest
            size, sample, tokens = largest
            if tokens >= SHARE_FILLED * self.room:
                return sample, tokens
            if size == self.maker.most(place):
                raise EvaluationError(
                    f"{self.task}: all its documents together are {tokens} tokens, and {self.room} are to be filled",
                    remedy="ask for shorter lengths, or for tasks with more text",
                )
            if self.may_be_short and (fullest is None or tokens > fullest[1]):
                fullest = sample, tokens
        self.unfilled += fullest is None
        return fullest

    def give_up(self, place: int) -> None:
        """Raises EvaluationError where enough places up to this one were tried in vain."""
        if place + 1 < self.maker.places and self.unfilled < PLACES:
            return
        filled = f", and fills {SHARE_FILLED:.0%} of them" if self.unfilled else ""
        raise EvaluationError(
            f"{self.task}: no prompt fits in {self.room} tokens{filled}",
            remedy="ask for longer lengths, or fewer tasks",
        )

    def _largest(self, seed: str, place: int) -> tuple[int, Sample, int] | None:
        """A size with its sample and tokens, found by steps of what is missing over the tokens of a unit."""
        made: dict[int, tuple[Sample, int]] = {}
        low, high = 0, self.maker.most(place) + 1
        size = min(max(1, self.guess), high - 1)
        while low < size < high:
            made[size] = self._made(seed, size, place)
            tokens = made[size][1]
            fits = tokens <= self.room
            if fits and low and tokens == made[low][1]:  # More noise is not longer: there would be no end.
                break
            low, high = (size, high) if fits else (low, size)
            if len(made) > 1:
                self._learn(made)
            size += math.floor((self.room - tokens) / (self.unit or max(1.0, tokens / size)))
            size = min(size if fits else max(size, low + 1), high - 1)
        self.guess = max(1, low)
        return (low, *made[low]) if low else None

    def _learn(self, sizes: dict[int, tuple[Sample, int]]) -> None:
        first, last = min(sizes), max(sizes)
        slope = (sizes[last][1] - sizes[first][1]) / (last - first)
        self.unit = max(slope, 0.1)

    def _made(self, seed: str, size: int, place: int) -> tuple[Sample, int]:
        with seeded(seed):
            sample = self.maker.make(size, place)
        return sample, self.count(sample)


@contextmanager
def seeded(seed: str) -> Iterator[None]:
    """lm-eval's generators draw from the global random number generators, which are put back afterwards."""
    import numpy as np

    before, before_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(random.randrange(2**32))
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)
