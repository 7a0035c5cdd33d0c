"""RULER's 13 tasks (Hsieh et al., arXiv 2404.06654) made to a length in our own tokenizer, without a network.

Templates, random draws and scorers are those of lm-eval's modules. What is different, and why:

- *Length*: prompt and room for the answer fill between 99 % and 100 % of the target. lm-eval adds noise in steps of up
  to 500 words, which is a tenth of 4K. Where whole lines or documents come in too large units, other draws are tried.
- *Seeds*: a sample is a function of seed, task, length and its place.
- *Text*: RULER's essays from the data folder, or the topics of Python's documentation; repeated where too short.
- *QA score*: the best of the references, as RULER's own scorer; lm-eval's gives a third for one of three references.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sidewinder.errors import EvaluationError
from sidewinder.evaluate.local_data import LocalData
from sidewinder.evaluate.ruler_tasks import NEEDLES, Maker, Sample, maker_for

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

    Raises MissingData where the task's text is not at hand, EvaluationError where no sample fits the length.
    """
    room = ROOM["niah"] if task in NEEDLES else ROOM[task]
    maker = maker_for(task, length_tokens, data, haystack)
    fitter = Fitter(task, length_tokens - room, lambda sample: len(encode(prompt_of(task, sample))), maker)
    made = []
    for index in range(samples):
        sample, length = fitter.sample(f"ruler {seed} {task} {length_tokens} {index}", index)
        sample |= {"index": index, "length": length + room, "max_length": length_tokens}
        made.append(sample)
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
    make: Maker
    guess: int = 10
    unit: float = field(default=0.0)
    """Tokens of one unit of noise, as last seen."""

    def sample(self, seed: str, place: int) -> tuple[Sample, int]:
        """A sample and its length in tokens: the first of DRAWS that fills the room, or the fullest of them."""
        best: tuple[Sample, int] | None = None
        for draw in range(DRAWS):
            found = self._largest(f"{seed} {draw}", place)
            if found and (best is None or found[1] > best[1]):
                best = found
            if best and best[1] >= SHARE_FILLED * self.room:
                return best
        if best is None:
            raise EvaluationError(
                f"{self.task}: no prompt fits in {self.room} tokens", remedy="ask for longer lengths, or fewer tasks"
            )
        return best

    def _largest(self, seed: str, place: int) -> tuple[Sample, int] | None:
        """By steps of what is missing over the tokens of a unit, until the next size would be too long."""
        sizes: dict[int, tuple[Sample, int]] = {}
        low, high, size = 0, None, max(1, self.guess)
        while size not in sizes:
            sizes[size] = found = self._made(seed, size, place)
            low, high = (size, high) if found[1] <= self.room else (low, size)
            if len(sizes) > 1:
                self._learn(sizes)
            missing = (self.room - found[1]) / (self.unit or max(1.0, found[1] / size))
            size = max(1, size + (int(missing) if missing >= 0 else int(missing) - 1))
            if high is not None and size >= high:
                size = max(low, high - 1, 1) if high - low > 1 else max(low, 1)
        self.guess = max(1, low)
        return sizes.get(low)

    def _learn(self, sizes: dict[int, tuple[Sample, int]]) -> None:
        first, last = min(sizes), max(sizes)
        slope = (sizes[last][1] - sizes[first][1]) / (last - first)
        self.unit = max(slope, 0.1)

    def _made(self, seed: str, size: int, place: int) -> tuple[Sample, int]:
        with seeded(seed):
            sample = self.make(size, place)
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
