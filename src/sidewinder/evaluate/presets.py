"""Which tasks, shots and lengths a harness suite stands for: presets, and the units that are run one after another.

Shots are the paper's; where it tells none, 0 and 5 are both run (Natural Questions), or 0 alone where lm-eval's task
cannot take examples (SQuAD 2). Every metric that lm-eval knows for a task is reported, so that no choice between plain
and normalised accuracy is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sidewinder.config.suites import Harness

FOLDER = Path(__file__).parent / "tasks"
"""Of our own tasks, for lm-eval's --include_path."""
ZERO: tuple[int, ...] = (0,)
BOTH: tuple[int, ...] = (0, 5)
STANDARD: dict[str, tuple[int, ...]] = {
    "winogrande": ZERO,
    "piqa": ZERO,
    "hellaswag": ZERO,
    "arc_easy": ZERO,
    "arc_challenge": ZERO,
    "mmlu": BOTH,
    "openbookqa": ZERO,
    "truthfulqa_mc2": ZERO,
    "pubmedqa": ZERO,
    "race": ZERO,
    "nq_open": BOTH,
    "squadv2": ZERO,
}
MMLU_FORMATS = {"mmlu": BOTH, "sidewinder_mmlu_choice": BOTH, "mmlu_continuation": BOTH}
NATURAL = (
    "scrolls_narrativeqa",
    "scrolls_qasper",
    "scrolls_quality",
    "longbench_multifieldqa_en",
    "longbench_hotpotqa",
    "longbench_2wikimqa",
    "longbench_musique",
    "longbench_trec",
    "longbench_triviaqa",
)
RULER = (
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "ruler_vt",
    "ruler_cwe",
    "ruler_fwe",
    "ruler_qa_squad",
    "ruler_qa_hotpot",
)
PHONEBOOK = ("sidewinder_phonebook", "sidewinder_phonebook_reversed")
SIZED = {*RULER, *PHONEBOOK}
"""Tasks whose samples are made to a length in tokens."""
SHOTLESS = {*RULER, "sidewinder_phonebook_reversed", "sidewinder_cloze", "sidewinder_haystack"}
"""Of ours and those made to a length, the ones that examples make no sense for."""
PRESETS: dict[str, dict[str, tuple[int, ...]]] = {
    "standard": STANDARD,
    "mmlu-formats": MMLU_FORMATS,
    "long": dict.fromkeys((*NATURAL, *RULER, *PHONEBOOK), ZERO),
}
SHORTEST_TOKENS = 4096
"""RULER's shortest length."""


@dataclass(frozen=True)
class Unit:
    """A task at one number of shots and one length: what is loaded, run, kept and resumed as a whole."""

    task: str
    shots: int
    length_tokens: int | None = None
    variant: str | None = None
    """Tells it from other units of the same task, where there are any: `5-shot`."""

    @property
    def name(self) -> str:
        return f"{self.task}-{self.shots}shot" + (f"-{self.length_tokens}" if self.length_tokens else "")


def units(suite: Harness, context_tokens: int) -> tuple[list[Unit], dict[str, str]]:
    """What a suite runs on a checkpoint of that context, and the lengths that are left out, with the reason."""
    lengths, left_out = _lengths(suite, context_tokens)
    made: list[Unit] = []
    for task, shots in tasks(suite).items():
        for count in shots:
            variant = f"{count}-shot" if len(shots) > 1 else None
            for length in lengths if task in SIZED else [None]:
                made.append(Unit(task, count, length, variant))
    return made, left_out


def tasks(suite: Harness) -> dict[str, tuple[int, ...]]:
    """Task names with their numbers of shots; a task that is named as well as in the preset has the named shots."""
    found: dict[str, tuple[int, ...]] = dict(PRESETS[suite.preset]) if suite.preset else {}
    for entry in suite.tasks:
        name, shots = (entry, [suite.shots]) if isinstance(entry, str) else (entry.task, entry.shots)
        found[name] = tuple(shots)
    return found


def _lengths(suite: Harness, context_tokens: int) -> tuple[list[int], dict[str, str]]:
    longest = int(suite.beyond * context_tokens)
    if suite.lengths_tokens is None:
        doubled = [SHORTEST_TOKENS << step for step in range(20) if SHORTEST_TOKENS << step <= longest]
        return doubled or [context_tokens], {}
    kept = [length for length in suite.lengths_tokens if length <= longest]
    reason = f"beyond {suite.beyond:g} x the context of {context_tokens} tokens"
    return kept, {str(length): reason for length in suite.lengths_tokens if length > longest}
