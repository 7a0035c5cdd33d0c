"""Tasks of lm-eval whose samples are made here, from a seed, for any model: what the YAML files in `tasks` refer to.

lm-eval hands `--metadata` and the model's arguments to a task's maker; the tokenizer, by which lengths are counted, is
found from `tokenizer`, `pretrained` or `checkpoint` there. So the same prompts serve any model with that tokenizer:

    lm_eval --model hf --model_args pretrained=FOLDER --include_path $(sidewinder datasets tasks)
            --tasks sidewinder_phonebook --metadata '{"lengths_tokens": [512, 2048], "shots": 2}'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sidewinder.config.suites import Phonebook
from sidewinder.errors import EvaluationError
from sidewinder.evaluate import phonebook as book
from sidewinder.evaluate import ruler
from sidewinder.evaluate.opened import tokenizer_of
from sidewinder.evaluate.recall import Prompt
from sidewinder.tokenizer import load

BOOKS, QUERIES, DIGITS, LENGTHS = 100, 1, 7, (4096,)
FOLDERS = ("pretrained", "checkpoint", "model")
"""Names that a model's folder has among its arguments."""
ROOM_TOKENS = 16
"""For the answer, a space and a number; what the tasks' YAML files let a model generate."""


@dataclass(frozen=True)
class Counter:
    """What counts tokens: all that makers need of a model."""

    encode: Callable[[str], list[int]]
    start: int = 0

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]


def phonebook(**settings: Any) -> dict[str, Any]:
    """Books with the question behind them, after `shots` other entries of the book with their numbers."""
    return splits(phonebook_samples(counter_of(settings), book.STANDARD, **_chosen(settings)))


def phonebook_reversed(**settings: Any) -> dict[str, Any]:
    """Books with the question before them."""
    return splits(phonebook_samples(counter_of(settings), book.REVERSED, **_chosen(settings)))


def haystack(**settings: Any) -> dict[str, Any]:
    """A needle in Python's documentation."""
    count, lengths = counter_of(settings), settings.get("lengths_tokens", LENGTHS)
    samples, seed = int(settings.get("samples", 100)), int(settings.get("seed", 1))
    make = partial(ruler.make, "niah_single_2", encode=count.encode, seed=seed, haystack="python")
    return splits([sample for length in lengths for sample in make(length_tokens=length, samples=samples)])


def phonebook_samples(
    counter: Any,
    variant: str,
    *,
    lengths_tokens: Sequence[int] = LENGTHS,
    books: int = BOOKS,
    queries: int = QUERIES,
    digits: int = DIGITS,
    shots: int = 0,
    seed: int = 1,
) -> list[dict[str, Any]]:
    """Prompts that end in `Name:`, with the number that follows. A prompt and ROOM_TOKENS fit the length.

    Shots are other entries of the same book, asked and answered before; every one of a book's `queries` comes after the
    same shots and no other query. The reversed form asks one question a book, and takes no shots: it is asked before
    there is a book to answer from. Raises EvaluationError where shots are asked of it, and where a length has no room
    for the questions or the answer none for the digits.
    """
    if variant == book.REVERSED and shots:
        raise EvaluationError(
            f"sidewinder_phonebook_reversed takes no shots, but {shots} are asked for: it is asked before the book",
            remedy="ask for 0 shots, or for sidewinder_phonebook",
        )
    asked = 1 if variant == book.REVERSED else queries + shots
    made = []
    for length in lengths_tokens:
        suite = Phonebook(
            kind="phonebook", lengths_tokens=[length], books=books, queries=asked, digits=digits, seed=seed
        )
        for place in range(books):
            prompt = book.make_prompt(counter, suite, length - ROOM_TOKENS, variant, place)
            if len(prompt.questions) < asked or len(prompt.tokens) > length - ROOM_TOKENS:
                raise EvaluationError(
                    f"{length} tokens have no room for a {variant} phonebook of {asked} entries that are asked",
                    remedy="ask for a longer length, or for fewer shots",
                )
            about = {"book": place, "length": length}
            made += [about | sample for sample in _asked_alone(counter, prompt, shots)]
    return made


def _asked_alone(counter: Any, prompt: Prompt, shots: int) -> Iterator[dict[str, Any]]:
    """A sample for each question of a prompt behind the first `shots`, after these and no other one."""
    text, starts = prompt.text, [question.first - len(f"{question.about['asked']}:") for question in prompt.questions]
    for question, start in zip(prompt.questions[shots:], starts[shots:], strict=True):
        asked = text[: starts[shots]] + text[start : question.first]
        number = text[question.first : question.last].strip()
        tokens = len(counter.encode(f" {number}"))
        if tokens > ROOM_TOKENS:
            raise EvaluationError(
                f"a phonebook's number of {len(number)} digits takes {tokens} tokens, and its answer has {ROOM_TOKENS}",
                remedy="ask for fewer `digits`",
            )
        yield {"prompt": asked, "answer": number, **question.about, "prompt_tokens": len(counter.encode(asked))}


def number_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the number is right, and the share of its digits that are, place by place."""
    given, wanted = results[0].strip(), doc["answer"]
    right = sum(digit == true for digit, true in zip(given, wanted, strict=False))
    return {"exact_match": float(given == wanted), "digit_agreement": right / len(wanted)}


def needle_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    return {"found": float(all(answer in results[0] for answer in doc["outputs"]))}


def counter_of(settings: dict[str, Any]) -> Any:
    """The tokenizer that a task's settings name, found as the model `sidewinder` finds it, or else by transformers.

    Raises EvaluationError where they name none, or one that cannot be read.
    """
    if "counter" in settings:
        return settings["counter"]
    named, folder = settings.get("tokenizer"), next((settings[key] for key in FOLDERS if settings.get(key)), None)
    if not named and not folder:
        raise EvaluationError(
            "a task whose prompts have a length in tokens needs a tokenizer",
            remedy='name it: --model_args pretrained=FOLDER, or --metadata \'{"tokenizer": "FOLDER"}\'',
        )
    try:
        processor = load(tokenizer_of(folder, named))
    except EvaluationError as error:
        return _counter_of_transformers(str(named or folder), error)
    return Counter(lambda text: list(processor.encode(text)), int(processor.eos_id()))


def _counter_of_transformers(named: str, not_ours: EvaluationError) -> Counter:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(named)
    except Exception as error:  # Of many kinds: no such folder, no network, files of a form that it does not know.
        raise EvaluationError(
            f"{not_ours.message}, and transformers has none for {named}: {type(error).__name__}: {error}",
            remedy='name it: --model_args pretrained=FOLDER,tokenizer=FILE, or --metadata \'{"tokenizer": "FILE"}\'',
        ) from error
    return Counter(lambda text: list(tokenizer(text, add_special_tokens=False).input_ids))


def _chosen(settings: dict[str, Any]) -> dict[str, Any]:
    names = ("lengths_tokens", "books", "queries", "digits", "shots", "seed")
    return {name: settings[name] for name in names if name in settings}


def splits(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples as the splits of a task's `custom_dataset`."""
    from datasets import Dataset

    return {"test": Dataset.from_list(samples)}
