"""Small data sets with the columns and types of the real ones, in the folder form that the suites read.

Every evaluated split has SAMPLES rows (of MMLU's subjects all but one have one row, so there are more). The text is
made of common words; right answers stand in the text, so that an oracle can be told them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from datasets import ClassLabel, Dataset

from sidewinder.evaluate.presets import FOLDER, PHONEBOOK, RULER

SAMPLES = 50
FEW = 8
"""Rows of splits that only examples come from."""
LENGTH, LONGER = 640, 2048
TOO_LONG = {"ruler_vt", "ruler_qa_hotpot"}
"""RULER's tasks that need more than LENGTH tokens of the tests' tokenizer."""
SIZED_AT = {
    LENGTH: [task for task in (*RULER, *PHONEBOOK) if task not in TOO_LONG | {"ruler_cwe"}],
    768: ["ruler_cwe"],
    LONGER: sorted(TOO_LONG),
}
"""What is made to each length."""
TEXT = (
    "apple river stone cloud garden winter silver candle bridge mirror forest letter basket engine pepper "
    "thunder button harbour window summer copper valley lantern blanket hammer island saddle feather orchard anchor"
)
WORDS = TEXT.split()
LETTERS = "ABCD"
Row = dict[str, Any]


def subjects() -> list[str]:
    """MMLU's."""
    return [entry["task"] for entry in yaml.safe_load((FOLDER / "mmlu_choice.yaml").read_text())["task"]]


def write_all(folder: Path) -> Path:
    """Writes everything that the presets read."""
    for path, name, splits, make in TABLE:
        rng = random.Random(f"{path} {name}")
        for split, rows in splits.items():
            write(folder, path, name, split, [make(rng, place) for place in range(rows)])
    for subject in subjects():
        rng = random.Random(subject)
        for split, rows in (("test", SAMPLES if subject == "anatomy" else 1), ("validation", 1), ("dev", 5)):
            made = [mmlu(rng, place) | {"subject": subject} for place in range(rows)]
            write(folder, "cais/mmlu", subject, split, made, answer=ClassLabel(names=list(LETTERS)))
    (folder / "ruler").mkdir()
    (folder / "ruler" / "dev-v2.0.json").write_text(json.dumps(squad_file(random.Random(1), 220)))
    (folder / "ruler" / "hotpot_dev_distractor_v1.json").write_text(
        json.dumps(hotpot_file(random.Random(2), 170, longest=9))
    )
    return folder


def write(folder: Path, path: str, name: str, split: str, rows: list[Row], **columns: Any) -> None:
    made = Dataset.from_list(rows)
    for column, kind in columns.items():
        made = made.cast_column(column, kind)
    place = folder / path / name
    place.mkdir(parents=True, exist_ok=True)
    made.to_parquet(str(place / f"{split}.parquet"))


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def options(rng: random.Random, count: int = 4) -> list[str]:
    """Different answers of one to three words."""
    return [f"{word} {words(rng, rng.randint(0, 2))}".strip() for word in rng.sample(WORDS, count)]


def winogrande(rng: random.Random, place: int) -> Row:
    first, second = rng.sample(WORDS, 2)
    sentence = f"The {first} is not the {second} because _ is {words(rng, 3)}."
    return {"sentence": sentence, "option1": first, "option2": second, "answer": rng.choice("12")}


def piqa(rng: random.Random, place: int) -> Row:
    one, other = options(rng, 2)
    return {"goal": f"how to find the {words(rng, 3)}", "sol1": one, "sol2": other, "label": rng.randrange(2)}


def hellaswag(rng: random.Random, place: int) -> Row:
    first, second = f"A man [title] takes {words(rng, 5)}.", f"he {words(rng, 3)}"
    return {
        "ind": place,
        "activity_label": words(rng, 2).title(),
        "ctx_a": first,
        "ctx_b": second,
        "ctx": f"{first} {second}",
        "endings": [f"{option} [substeps] now." for option in options(rng)],
        "source_id": f"activitynet~{place}",
        "split": "val",
        "split_type": "indomain",
        "label": str(rng.randrange(4)),
    }


def arc(rng: random.Random, place: int) -> Row:
    labels = list("1234" if place % 7 == 3 else LETTERS)  # As in the real ones.
    return {
        "id": f"q{place}",
        "question": f"Which of these is {words(rng, 4)}?",
        "choices": {"text": options(rng), "label": labels},
        "answerKey": rng.choice(labels),
    }


def openbookqa(rng: random.Random, place: int) -> Row:
    made = arc(rng, 0)
    return {
        "id": f"7-{place}",
        "question_stem": f"The {words(rng, 4)} can be",
        "choices": made["choices"],
        "answerKey": made["answerKey"],
    }


def mmlu(rng: random.Random, place: int) -> Row:
    return {"question": f"What is the {words(rng, 4)}? ", "choices": options(rng), "answer": rng.randrange(4)}


def truthfulqa(rng: random.Random, place: int) -> Row:
    choices = [f"{option.capitalize()}." for option in options(rng, 5)]
    return {
        "question": f"What happens if you see {words(rng, 3)}?",
        "mc1_targets": {"choices": choices[:3], "labels": [1, 0, 0]},
        "mc2_targets": {"choices": choices, "labels": [1, 1, 0, 0, 0]},
    }


def pubmedqa(rng: random.Random, place: int) -> Row:
    return {
        "QUESTION": f"Does the {words(rng, 3)} change?",
        "CONTEXTS": [words(rng, 12), words(rng, 8)],
        "LABELS": ["BACKGROUND", "RESULTS"],
        "MESHES": ["Humans"],
        "YEAR": "2011",
        "reasoning_required_pred": "yes",
        "reasoning_free_pred": "yes",
        "final_decision": rng.choice(["yes", "no", "maybe"]),
        "LONG_ANSWER": words(rng, 6),
    }


def race(rng: random.Random, place: int) -> Row:
    problems = [
        {
            "question": f"The {words(rng, 2)} is  _  ." if at == 1 else f"What is the {words(rng, 2)}?",
            "answer": rng.choice(LETTERS),
            "options": options(rng),
        }
        for at in range(3)
    ]
    return {"article": words(rng, 30), "problems": str(problems)}


def nq_open(rng: random.Random, place: int) -> Row:
    return {"question": f"who found the {words(rng, 3)}", "answer": options(rng, 2)}


def squad(rng: random.Random, place: int) -> Row:
    context = words(rng, 25)
    at = context.index(context.split()[7])
    answer = {"text": [context.split()[7]], "answer_start": [at]} if place % 3 else {"text": [], "answer_start": []}
    return {
        "id": f"id{place}",
        "title": words(rng, 1).title(),
        "context": context,
        "question": f"What comes after {context.split()[6]}?",
        "answers": answer,
    }


def scrolls(rng: random.Random, place: int) -> Row:
    output = rng.choice(["yes", "no"]) if place % 5 == 0 else words(rng, 2)
    made = f"What is the {words(rng, 3)}?\n\n{words(rng, 120)}. {output}"
    return {"id": f"s{place}", "pid": f"s{place}_0", "input": made, "output": output}


def quality(rng: random.Random, place: int) -> Row:
    choices = options(rng)
    listed = "\n ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    text = f"What is the {words(rng, 2)}?\n\n {listed}\n\n{words(rng, 120)}"
    return {"id": f"q{place}", "pid": f"q{place}_0", "input": text, "output": rng.choice(choices)}


def longbench(rng: random.Random, place: int) -> Row:
    """Fits the context: what does not is cut as LongBench's authors do, not as lm-eval's `hf` does."""
    context = words(rng, rng.choice([40, 70, 100]))
    return {
        "context": context,
        "question": f"What comes after {context.split()[2]}?",
        "answers": [context.split()[3]],
        "all_classes": None,
        "length": len(context.split()),
    }


def trec(rng: random.Random, place: int) -> Row:
    classes = ["Colour", "Number", "Number of something", "Reason"]  # One of which holds another.
    shown = "\n".join(f"Question: {words(rng, 4)}?\nType: {rng.choice(classes)}" for _ in range(6))
    question = f"Question: {words(rng, 4)}?\nType:"
    return {
        "context": shown,
        "question": question,
        "answers": [rng.choice(classes)],
        "all_classes": classes,
        "length": 60,
    }


def paragraph(rng: random.Random, longest: int = 60) -> str:
    return words(rng, rng.randint(longest // 3, longest)).capitalize() + "."


def squad_file(rng: random.Random, articles: int) -> Row:
    """As dev-v2.0.json, with questions of several references and some of no answer."""
    made = []
    for article in range(articles):
        paragraphs = []
        for at in range(8):
            context = paragraph(rng)
            answers = [{"text": context.split()[3]}, {"text": " ".join(context.split()[3:5])}]
            asked = {"question": f"What is {article} {at}?", "answers": answers, "is_impossible": at == 7}
            paragraphs.append({"context": context, "qas": [asked]})
        made.append({"title": str(article), "paragraphs": paragraphs})
    return {"version": "v2.0", "data": made}


def hotpot_file(rng: random.Random, questions: int, longest: int = 18) -> list[Row]:
    """As hotpot_dev_distractor_v1.json, of paragraphs of so many words."""
    made = []
    for question in range(questions):
        context = [
            [f"Title {question} {at}", [paragraph(rng, longest), " " + paragraph(rng, longest)]] for at in range(10)
        ]
        made.append({"question": f"What of {question}?", "answer": context[0][1][0].split()[2], "context": context})
    return made


def essay(rng: random.Random, place: int) -> Row:
    return {"text": " ".join(paragraph(rng) for _ in range(60))}


Make = Callable[[random.Random, int], Row]
TRAINED, LONG = {"train": FEW, "validation": SAMPLES}, "Xnhyacinth/LongBench"
TABLE: list[tuple[str, str, dict[str, int], Make]] = [
    ("allenai/winogrande", "winogrande_xl", TRAINED, winogrande),
    ("baber/piqa", "default", TRAINED, piqa),
    ("Rowan/hellaswag", "default", TRAINED, hellaswag),
    ("allenai/ai2_arc", "ARC-Easy", TRAINED | {"test": SAMPLES}, arc),
    ("allenai/ai2_arc", "ARC-Challenge", TRAINED | {"test": SAMPLES}, arc),
    ("allenai/openbookqa", "main", TRAINED | {"test": SAMPLES}, openbookqa),
    ("truthfulqa/truthful_qa", "multiple_choice", {"validation": SAMPLES}, truthfulqa),
    ("bigbio/pubmed_qa", "pubmed_qa_labeled_fold0_source", TRAINED | {"test": SAMPLES}, pubmedqa),
    ("EleutherAI/race", "high", {"test": SAMPLES}, race),
    ("google-research-datasets/nq_open", "default", TRAINED, nq_open),
    ("lighteval/squad_v2", "default", TRAINED, squad),
    ("tau/scrolls", "narrative_qa", TRAINED, scrolls),
    ("tau/scrolls", "qasper", TRAINED, scrolls),
    ("tau/scrolls", "quality", TRAINED, quality),
    *[(LONG, name, {"test": SAMPLES}, longbench) for name in ("multifieldqa_en", "hotpotqa", "2wikimqa", "musique")],
    (LONG, "trec", {"test": SAMPLES}, trec),
    (LONG, "triviaqa", {"test": SAMPLES}, longbench),
    ("baber/paul_graham_essays", "default", {"train": 12}, essay),
]
