"""Models of lm-eval's that know everything, nothing, or guess: what scores mean is seen by them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

SURE, NEVER = -1e-6, -1e3


class Player(LM):
    """Answers from the tasks' own documents. `tasks` are those that lm-eval loaded."""

    def __init__(self, tasks: dict[str, Any]) -> None:
        super().__init__()
        self.tasks = tasks

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(self.says(request), False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return [self.says(request) for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [self.writes(request) for request in requests]

    def says(self, request: Instance) -> float:
        """Log-likelihood of a choice."""
        raise AssertionError

    def writes(self, request: Instance) -> str:
        raise AssertionError


class Oracle(Player):
    """Gives every right choice all probability, and writes the right answer."""

    def says(self, request: Instance) -> float:
        return SURE if is_right(self.tasks[request.task_name], request) else NEVER

    def writes(self, request: Instance) -> str:
        doc, task = request.doc, self.tasks[request.task_name]
        if request.task_name.startswith(("niah", "ruler")) and "qa" not in request.task_name:
            return " and ".join(doc["outputs"])
        if request.task_name.startswith(("scrolls", "ruler")):
            return " " + doc["outputs"][0]
        if request.task_name == "squadv2":
            return (doc["answers"]["text"] or [""])[0]
        target = task.doc_to_target(doc)
        return f" {target[0] if isinstance(target, list) else target}"


class Guesser(Player):
    """All choices are as likely; text is a number that is as likely as any. A seed guesses the same in any order."""

    def __init__(self, tasks: dict[str, Any], seed: int = 1) -> None:
        super().__init__(tasks)
        self.seed = seed

    def draw(self, request: Instance) -> random.Random:
        # With the answer offered: lm-eval numbers SCROLLS' and SQuAD's requests in other ways.
        return random.Random(f"{self.seed} {request.task_name} {request.doc_id} {request.idx} {request.args[1]}")

    def says(self, request: Instance) -> float:
        return self.draw(request).uniform(-9.0, -1.0)

    def writes(self, request: Instance) -> str:
        return f" {self.draw(request).randrange(10**7):07d}"


class CharacterGuesser(Guesser):
    """All choices are as likely for a character of theirs, which is what normalised accuracy compares."""

    def says(self, request: Instance) -> float:
        return super().says(request) * len(request.args[1].removeprefix(" "))


class Silent(Guesser):
    """Writes nothing."""

    def writes(self, request: Instance) -> str:
        return ""


def is_right(task: Any, request: Instance) -> bool:
    """Whether the continuation of a request is what the document holds for right."""
    doc = request.doc
    if request.task_name == "squadv2":  # The only log-likelihood asked for is that of no answer.
        return not doc["answers"]["text"]
    if request.task_name == "truthfulqa_mc2":
        return bool(doc["mc2_targets"]["labels"][request.idx])
    if request.task_name == "scrolls_qasper":
        return request.args[1].strip() == doc["outputs"][0]
    if "gold" in doc:
        return bool(doc["gold"] == request.idx)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    choices = task.doc_to_choice(doc)
    return request.idx == (gold if isinstance(gold, int) else choices.index(gold))


def guessed(kind: type[Guesser], task: Any, seeds: Iterable[int], samples: int) -> dict[str, list[Any]]:
    """What lm-eval's scorers give each document of a task for each seed's guesses, by metric."""
    task.build_all_requests(limit=samples)
    asked = [list(found) for _, found in groupby(task.instances, key=lambda request: request.doc_id)]
    parts: dict[str, list[Any]] = defaultdict(list)
    for seed in seeds:
        player = kind({}, seed)
        for requests in asked:
            for request in requests:
                chosen = request.request_type == "loglikelihood"
                request.resps = [(player.says(request), False) if chosen else player.writes(request)]
        task.apply_filters()
        (kept,) = task.instances[0].filtered_resps
        for requests in asked:
            found = task.process_results(requests[0].doc, [request.filtered_resps[kept] for request in requests])
            for metric, part in found.items():
                parts[metric].append(part)
    return parts
