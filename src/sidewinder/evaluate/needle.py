"""RULER's first needle task, niah_single_1 (Hsieh et al., arXiv 2404.06654): one number in repeated noise.

The texts below are RULER's, in the singular form that its code makes of them for one needle and one question; lm-eval's
module that holds them cannot be imported without a download. Ours differs in three points: the last round of noise may
be cut after one of its sentences, so that prompts come closer to their length; keys come from a short list of words;
and no room is left for 128 generated tokens, because the answer is scored where the prompt ends. So the number must
come first, which is stricter than RULER's search for it in a longer continuation. RULER's own form runs as the harness
task `niah_single_1` where its word lists are installed.
"""

from __future__ import annotations

import random
from itertools import accumulate

from sidewinder.config.suites import Needle
from sidewinder.evaluate.outcome import Outcome
from sidewinder.evaluate.recall import Prompt, Question, ask, plan, summarise
from sidewinder.evaluate.subject import Subject
from sidewinder.progress import Progress

TASK = "niah_single_1"
NOISE = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)
NEEDLE = "One of the special magic numbers for {key} is: {value}."
TEMPLATE = (
    "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "number afterwards.\n{context}\nWhat is the special magic number for {key} mentioned in the provided text? "
    "The special magic number for {key} mentioned in the provided text is"
)
ADJECTIVES = (
    "ancient bitter brave bright calm clever cold cosy curious deep distant eager early faint gentle golden happy "
    "heavy hidden hollow humble idle jolly keen kind large lazy light lively lonely loud lucky mellow mild narrow "
    "noble odd pale patient plain polite proud quick quiet rapid rare ready rich rough round rusty sharp shy silent "
    "simple slow small smooth soft solid stern strange swift tall tame thin tidy tiny vast warm weary wide wild "
    "wise young"
)
NOUNS = (
    "anchor apple arrow badge barrel basket beacon bell bench bird blanket boat book bottle bridge brush bucket "
    "button cabin candle canvas castle chain chair cherry clock cloud coat comet compass copper cradle crown "
    "curtain desk door drum engine feather fence ferry field flute forest fountain garden gate glove hammer harbour "
    "harvest helmet island jacket kettle ladder lantern ledger lemon letter mirror mountain needle orchard paddle "
    "pebble pencil pillow planet pocket ribbon river saddle shadow shelter spoon statue table tower valley violin "
    "wagon whistle window"
)


def run(subject: Subject, suite: Needle) -> Outcome:
    """Exact match and digit agreement for each length; lengths beyond the suite's limit are left out."""
    asked = plan(subject, suite, prompts=suite.samples, shortest=_shortest(subject))
    outcome = Outcome(facts={"lengths_left_out": asked.left_out})
    outcome.versions[TASK] = "1.0"
    silent = subject.ranks.rank > 0
    with Progress(f"{subject.title} needle", total=asked.tokens, unit="token", silent=silent) as progress:
        for length, count in asked.prompts.items():
            prompts = [make_prompt(subject, suite, length, place) for place in range(count)]
            samples = ask(subject, prompts, progress.update)
            outcome.scores += summarise(samples, task=TASK, context_tokens=length)
            outcome.samples += [{"context_tokens": length} | sample for answers in samples for sample in answers]
    return outcome


def make_prompt(subject: Subject, suite: Needle, length: int, place: int) -> Prompt:
    """A prompt with its answer that fills `length` tokens as far as whole sentences do; at least one round of noise."""
    rng = random.Random(f"needle {suite.seed} {length} {place}")
    key = f"{rng.choice(ADJECTIVES.split())}-{rng.choice(NOUNS.split())}"
    value, depth = str(rng.randint(1_000_000, 9_999_999)), rng.random()
    name = f"needle {place} of {length} tokens"
    least = _prompt(subject, key, value, depth, len(NOISE), name)
    for sentences in range(len(NOISE) + _more_sentences(subject, length - len(least.tokens)), len(NOISE), -1):
        prompt = _prompt(subject, key, value, depth, sentences, name)
        if len(prompt.tokens) <= length:
            return prompt
    return least


def _shortest(subject: Subject) -> int:
    """A length that one round of noise always fits, whatever the key: by the longest of the words."""
    words = [max(text.split(), key=lambda word: len(subject.encode(word))) for text in (ADJECTIVES, NOUNS)]
    return len(_prompt(subject, "-".join(words), "1000000", 0.0, len(NOISE), "shortest").tokens)


def _more_sentences(subject: Subject, room: int) -> int:
    """Sentences of noise that fit in `room` tokens if they are tokenized one by one; the first begins a line."""
    if room < 0:
        return 0
    breaks = ["\n", *[" "] * (len(NOISE) - 1)]
    costs = [len(subject.encode(gap + sentence)) for gap, sentence in zip(breaks, NOISE, strict=True)]
    rounds, room = divmod(room, sum(costs))
    return rounds * len(NOISE) + sum(total <= room for total in accumulate(costs))


def _prompt(subject: Subject, key: str, value: str, depth: float, sentences: int, name: str) -> Prompt:
    """The prompt with `sentences` sentences of noise and the needle after a share `depth` of the rounds."""
    rounds = [" ".join(NOISE)] * (sentences // len(NOISE))
    rest = " ".join(NOISE[: sentences % len(NOISE)])
    lines = [*rounds, rest] if rest else rounds
    at = int(depth * len(rounds))
    lines.insert(at, NEEDLE.format(key=key, value=value))
    text = TEMPLATE.format(context="\n".join(lines), key=key)
    about = {
        "task": TASK,
        "asked": key,
        "position": at / max(1, len(rounds) - 1),
        "needle_line": at,
        "lines": len(lines),
    }
    answer = f" {value}"
    question = Question(len(text), len(text) + len(answer), about)
    return Prompt(name, text + answer, [subject.start, *subject.encode(text + answer)], [question])
