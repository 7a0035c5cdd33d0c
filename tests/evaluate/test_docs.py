"""docs/evaluation.md shows prompts of our own tasks: they are those that lm-eval and the makers give."""

from __future__ import annotations

import re
from pathlib import Path

from sidewinder.evaluate import loading
from sidewinder.evaluate.local_data import LocalData
from sidewinder.evaluate.made_tasks import Counter, phonebook_samples
from sidewinder.evaluate.phonebook import REVERSED, STANDARD
from sidewinder.evaluate.task_index import manager_for

from .local_sets import subjects, write

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
SHOWN = re.findall(r"```text\n(.*?)\n```", TEXT, flags=re.DOTALL)
BYTES = Counter(lambda text: list(text.encode()))
CHOICES = ["a red one", "a blue one", "a green one", "none"]
RIGHT = 1


def test_phonebook() -> None:
    for variant, shots, shown in ((STANDARD, 1, SHOWN[0]), (REVERSED, 0, SHOWN[1])):
        made = phonebook_samples(BYTES, variant, lengths_tokens=[110], books=1, queries=1, shots=shots)
        assert made[0]["prompt"] == shown
        assert f"continued by ` {made[0]['answer']}`" in TEXT


def test_choice_text(tmp_path: Path) -> None:
    for subject in subjects():
        for split in ("test", "dev"):
            row = {"question": "Which one is blue?", "choices": CHOICES, "answer": RIGHT}
            write(tmp_path, "cais/mmlu", subject, split, [row])
    manager = manager_for(["sidewinder_mmlu_choice"])
    with loading.reading(LocalData(tmp_path)):
        tasks = manager.load(["sidewinder_mmlu_choice"])["tasks"]
        task = next(task for task in tasks.values() if task.config.dataset_name == "anatomy")
        task.build_all_requests()
    arguments = [instance.args for instance in task.instances]
    shown = {prompt for prompt, _ in arguments}
    assert shown == {SHOWN[2]}
    assert [continuation for _, continuation in arguments][: len(CHOICES)] == [f" {choice}" for choice in CHOICES]
    assert f"here `{arguments[RIGHT][1]}` is the right answer" in TEXT
