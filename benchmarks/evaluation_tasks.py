"""Tasks for the evaluation benchmark, of the shapes of real ones, made here: nothing is downloaded.

    letters    MMLU's form: five examples, about 1,000 tokens, the letters A to D as choices
    texts      QuALITY's form: a passage that fills the context, the choices' texts
    rolling    the log-likelihood of whole texts as long as the context, as for perplexity
    phonebook  `sidewinder_phonebook`: a book that fills the context, the number is generated

The text is that of Python's own documentation; right answers are drawn, because no model here has learnt anything.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from datasets import Dataset

from sidewinder.evaluate import loading
from sidewinder.evaluate.made_tasks import Counter, phonebook_samples
from sidewinder.evaluate.phonebook import STANDARD
from sidewinder.evaluate.presets import Unit
from sidewinder.evaluate.task_index import manager_for

SHOTS, PHONEBOOK = 5, "sidewinder_phonebook"
QUESTION_WORDS, CHOICE_WORDS = 80, (2, 6)
ROOM_TOKENS = 160
"""Of the context, for question, choices and the joints of tokens."""
Row = dict[str, Any]


def words() -> list[str]:
    """The documentation's words, in order."""
    from pydoc_data.topics import topics

    return " ".join(topics[name] for name in sorted(topics)).split()


def make(name: str, counter: Counter, context_tokens: int, samples: int) -> dict[str, Any]:
    """lm-eval's task of that name, loaded."""
    unit = Unit(name, SHOTS if name == "letters" else 0)
    manager = manager_for([PHONEBOOK])
    return loading.named(manager, lambda: KINDS[name](manager, counter, context_tokens, samples), unit)


def longest_tokens(loaded: dict[str, Any], counter: Counter) -> int:
    """Tokens of the longest input of a task, continuations and room for an answer included."""
    (task,) = loaded["tasks"].values()
    room = task.config.generation_kwargs["max_gen_toks"] if task.OUTPUT_TYPE == "generate_until" else 0
    longest = 0
    for doc in task.eval_docs:
        context = task.fewshot_context(doc, task.config.num_fewshot) or doc["text"]
        choices = [f" {choice}" for choice in task.doc_to_choice(doc)] if "choices" in doc else [""]
        longest = max(longest, *(len(counter.encode(context + choice)) for choice in choices))
    return longest + room


def _letters(manager: Any, counter: Counter, context_tokens: int, samples: int) -> Row:
    rng, text = random.Random(1), words()
    count = max(4, min(QUESTION_WORDS, context_tokens // (4 * (SHOTS + 1))))  # Short contexts: shorter questions.
    rows = [_question(rng, text, count) for _ in range(samples + SHOTS)]
    lines = "".join(f"\n{letter}. {{{{choices[{at}]}}}}" for at, letter in enumerate("ABCD"))
    return _multiple_choice("letters", {"test": rows[SHOTS:], "dev": rows[:SHOTS]}) | {
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "doc_to_text": f"{{{{question}}}}{lines}\nAnswer:",
        "doc_to_choice": list("ABCD"),
    }


def _texts(manager: Any, counter: Counter, context_tokens: int, samples: int) -> Row:
    rng, text = random.Random(2), words()
    room = context_tokens - min(ROOM_TOKENS, context_tokens // 2)
    rows = [_question(rng, text, 8) | {"passage": _passage(rng, text, counter, room)} for _ in range(samples)]
    return _multiple_choice("texts", {"test": rows}) | {
        "doc_to_text": "{{passage}}\n\n{{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
    }


def _rolling(manager: Any, counter: Counter, context_tokens: int, samples: int) -> Row:
    rng, text = random.Random(3), words()
    rows = [{"text": _passage(rng, text, counter, context_tokens)} for _ in range(samples)]
    metric = {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}
    return _task("rolling", {"test": rows}, "loglikelihood_rolling", [metric]) | {
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
    }


def _phonebook(manager: Any, counter: Counter, context_tokens: int, samples: int) -> Row:
    queries = 2
    made = phonebook_samples(
        counter, STANDARD, lengths_tokens=[context_tokens], books=-(-samples // queries), queries=queries
    )
    config = dict(loading._config(manager, PHONEBOOK))
    return config | {"task": "phonebook", "custom_dataset": _given({"test": made[:samples]})}


KINDS: dict[str, Callable[[Any, Counter, int, int], Row]] = {
    "letters": _letters,
    "texts": _texts,
    "rolling": _rolling,
    "phonebook": _phonebook,
}


def _question(rng: random.Random, text: list[str], count: int) -> Row:
    choices = [_some(rng, text, rng.randint(*CHOICE_WORDS)) for _ in range(4)]
    return {"question": _some(rng, text, count), "choices": choices, "answer": rng.randrange(4)}


def _some(rng: random.Random, text: list[str], count: int) -> str:
    start = rng.randrange(len(text) - count)
    return " ".join(text[start : start + count])


def _passage(rng: random.Random, text: list[str], counter: Counter, tokens: int) -> str:
    """As many words from somewhere as fit in so many tokens."""
    start = rng.randrange(len(text) - tokens)  # A word has a token at least.
    low, high = 1, tokens
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(counter.encode(" ".join(text[start : start + middle]))) <= tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    return " ".join(text[start : start + low])


def _multiple_choice(name: str, splits: dict[str, list[Row]]) -> Row:
    metrics = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")]
    return _task(name, splits, "multiple_choice", metrics) | {"doc_to_target": "{{answer}}", "target_delimiter": " "}


def _task(name: str, splits: dict[str, list[Row]], kind: str, metrics: list[Row]) -> Row:
    return {
        "task": name,
        "output_type": kind,
        "custom_dataset": _given(splits),
        "test_split": "test",
        "metric_list": metrics,
        "metadata": {"version": 1},
    }


def _given(splits: dict[str, list[Row]]) -> Callable[..., dict[str, Dataset]]:
    return lambda **settings: {split: Dataset.from_list(rows) for split, rows in splits.items()}
