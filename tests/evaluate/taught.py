"""References taken from what a model really writes, so that its scores are neither nothing nor everything.

Of the first TAUGHT samples of a task that is answered by writing, every other one has the model's own answer as its
reference, and the rest have more or less of it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset

from sidewinder.evaluate.outcome import Outcome
from sidewinder.evaluate.samples import read_samples

from .local_sets import LONG, Row, write

TAUGHT = 20
Answers = dict[str, dict[int, list[str]]]
"""What was written, by task and sample, at each number of shots."""


def answers_of(outcome: Outcome) -> Answers:
    found: Answers = defaultdict(lambda: defaultdict(list))
    for file in outcome.sample_files:
        for sample in read_samples(file):
            answer = sample["prediction"]
            if sample["task"] == "squadv2":
                answer = json.loads(answer)[0]
            if sample["task"] != "scrolls_qasper" or not answer.startswith("[["):  # Those choose between yes and no.
                found[sample["task"]][sample["sample"]].append(answer.strip())
    return found


def half(answer: str) -> str:
    """One word of the answer and one that it does not have: F1 between 0 and 1."""
    return f"{answer.split()[0]} nonsense"


def reference(answer: str, place: int) -> str:
    return half(answer) if place % 2 else answer


def squad(row: Row, answers: list[str], place: int) -> list[Row]:
    """Silence is right where there is no answer; where there is one, the taught one is the second of two."""
    (answer,) = answers
    texts = [*row["answers"]["text"][:1], reference(answer, place)] if answer else []
    return [row | {"answers": {"text": texts, "answer_start": [0] * len(texts)}}]


def scrolls(row: Row, answers: list[str], place: int) -> list[Row]:
    """Rows of one name are the references of one question. Qasper's without words is taken for `Unanswerable`."""
    return [row, row | {"output": reference(answers[0] or "unanswerable", place)}]


def several(column: str) -> Callable[[Row, list[str], int], list[Row]]:
    def teach(row: Row, answers: list[str], place: int) -> list[Row]:
        return [row | {column: [*row[column], *(reference(answer, place) for answer in answers if answer)]}]

    return teach


def trec(row: Row, answers: list[str], place: int) -> list[Row]:
    """The answer names the right class alone, or another one too, which halves the score."""
    (answer,) = answers
    if not answer:
        return [row]
    classes = [answer.split()[0], answer.split()[-1]] if place % 2 else [answer]
    return [row | {"answers": classes[:1], "all_classes": [*row["all_classes"], *dict.fromkeys(classes)]}]


TABLE: dict[str, tuple[str, str, str, Callable[[Row, list[str], int], list[Row]]]] = {
    "nq_open": ("google-research-datasets/nq_open", "default", "validation", several("answer")),
    "squadv2": ("lighteval/squad_v2", "default", "validation", squad),
    "scrolls_narrativeqa": ("tau/scrolls", "narrative_qa", "validation", scrolls),
    "scrolls_qasper": ("tau/scrolls", "qasper", "validation", scrolls),
    "longbench_trec": (LONG, "trec", "test", trec),
    **{
        f"longbench_{name}": (LONG, name, "test", several("answers"))
        for name in ("multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "triviaqa")
    },
}
"""Tasks answered by writing: data set, configuration, split, and how a row is taught."""


def teach_sets(folder: Path, answers: Answers) -> None:
    for task, (path, name, split, teach) in TABLE.items():
        rows = Dataset.from_parquet(str(folder / path / name / f"{split}.parquet")).to_list()
        made = []
        for place, row in enumerate(rows):
            own = answers[task].get(place)
            made += teach(row, own, place) if own and place < TAUGHT else [row]
        write(folder, path, name, split, made)


def teach_task(task: Any, answers: dict[int, list[str]]) -> None:
    """The same for samples that are made: RULER's `outputs` are parts of an answer, Phonebook's `answer` is a whole."""
    rows = task.dataset["test"].to_list()
    for place, row in enumerate(rows[:TAUGHT]):
        (answer,) = answers[place]
        if answer and "outputs" in row:  # All are in the answer, or one more is.
            row["outputs"] = [*row["outputs"], answer.split()[0]] if place % 2 else [answer, answer.split()[0]]
        elif answer:  # As many characters as the answer has, of which half are right.
            row["answer"] = answer[: -(-len(answer) // 2)].ljust(len(answer), "#") if place % 2 else answer
    task.dataset["test"] = Dataset.from_list(rows)
