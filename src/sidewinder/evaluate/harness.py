"""Tasks of lm-eval, run by its own evaluator on our adapter; `sidewinder_cloze` is made from the study's text.

Only this module and the adapter import lm-eval, which takes a second or two, and its index of tasks is read only where
a task of its own is asked for.
"""

from __future__ import annotations

import logging
import math
import os
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # Progress is shown by our own line; tqdm reads this when imported.

from datasets import Dataset
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from sidewinder.config.suites import Harness
from sidewinder.errors import EvaluationError, SidewinderError
from sidewinder.evaluate import cloze
from sidewinder.evaluate.adapter import SidewinderLM
from sidewinder.evaluate.outcome import Outcome, Score
from sidewinder.evaluate.subject import Subject

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # Its hints are about its own command line.
BOOTSTRAP_ROUNDS = 1000  # For metrics whose standard error has no formula.


def run(subject: Subject, suite: Harness, folder: Path) -> Outcome:
    """Scores of every metric of every task. The cloze data set is left in `folder`.

    Raises EvaluationError that names the task, and what is missing, where one cannot be loaded.
    """
    manager = TaskManager(include_defaults=any(task != cloze.TASK for task in suite.tasks))
    loaded: dict[str, Any] = {}
    for task in suite.tasks:
        spec = _cloze_task(subject, suite, folder) if task == cloze.TASK else task
        for name, made in load(manager, task, spec)["tasks"].items():
            loaded[name] = made
    for made in loaded.values():
        if made.get_config("num_fewshot") != 0:  # A task that fixes zero shots keeps them, as in lm-eval's own command.
            made.set_config(key="num_fewshot", value=suite.shots)
        made.set_fewshot_seed(seed=suite.seed)
    adapter = SidewinderLM(subject=subject)
    results = evaluator.evaluate(
        lm=adapter, task_dict=loaded, limit=suite.samples, bootstrap_iters=BOOTSTRAP_ROUNDS, log_samples=True
    )
    outcome = _outcome(results)
    outcome.facts["truncated"] = adapter.truncated
    return outcome


def _cloze_task(subject: Subject, suite: Harness, folder: Path) -> dict[str, Any]:
    """lm-eval's configuration of the cloze task, reading the file that is written here."""
    assert subject.heldout is not None
    path = folder / cloze.FILE
    cloze.write_cloze(subject.heldout, suite.samples, suite.seed, path)

    def dataset(**settings: Any) -> dict[str, Dataset]:
        return {"test": Dataset.from_list(cloze.read_cloze(path))}

    means = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")]
    return {
        "task": cloze.TASK,
        "custom_dataset": dataset,
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": " ",
        "metric_list": means,
        "num_fewshot": 0,
        "metadata": {"version": cloze.VERSION},
    }


def load(manager: TaskManager, task: str, spec: str | dict[str, Any]) -> dict[str, Any]:
    """One task, or the tasks of a group. Raises EvaluationError where it is unknown or its data set is missing."""
    if isinstance(spec, str) and spec not in manager.task_index:
        near = get_close_matches(task, [*manager.task_index, cloze.TASK], n=3, cutoff=0.0)
        raise EvaluationError(f"unknown lm-eval task {task!r}", remedy=f"use one of those near: {', '.join(near)}")
    try:
        return dict(manager.load([spec]))
    except SidewinderError:
        raise
    except Exception as error:  # Loaders of data sets raise errors of every kind, often several layers deep.
        raise EvaluationError(
            f"lm-eval task {task!r} cannot be loaded: {type(error).__name__}: {error}",
            remedy="its data set (or a library that it needs) is not on this machine: install it, or run the task once "
            "where there is a network so that the data set is kept, or take the task out of the suite",
        ) from error


def _outcome(results: dict[str, Any]) -> Outcome:
    """lm-eval's results as ours: `acc,none` with `acc_stderr,none` becomes one score."""
    outcome = Outcome(versions={"lm-eval": metadata.version("lm-eval")})
    for task, values in results["results"].items():
        outcome.versions[task] = str(results["versions"].get(task))
        for key, value in values.items():
            metric, _, kept = key.partition(",")
            if not isinstance(value, int | float) or not kept or metric.endswith("_stderr"):
                continue
            error = values.get(f"{metric}_stderr,{kept}")
            count = results["n-samples"].get(task, {}).get("effective", 0)
            stderr = float(error) if isinstance(error, int | float) and math.isfinite(error) else None
            if not math.isfinite(value):
                raise EvaluationError(
                    f"lm-eval task {task!r}: {metric} is {value}", remedy="leave the task out, or look at its samples"
                )
            variant = None if kept == "none" else kept
            outcome.scores.append(Score(task, metric, float(value), stderr, int(count), variant=variant))
    for task, samples in results["samples"].items():
        outcome.samples += [_sample(task, sample) for sample in samples]
    return outcome


def _sample(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    """A sample's question, answer, what the model gave, and its metrics."""
    arguments = [list(pair) for pair in sample["arguments"]]
    return {
        "task": task,
        "sample": sample["doc_id"],
        "prompt_sha256": sample.get("prompt_hash"),
        "prompt_tail": str(arguments[0][0])[-80:],
        "continuations": [str(pair[1]) for pair in arguments if len(pair) > 1],
        "answer": str(sample["target"]),
        "prediction": _plain(sample["filtered_resps"]),
        **{metric: _plain(sample[metric]) for metric in sample["metrics"]},
    }


def _plain(value: Any) -> Any:
    """JSON-able values; numbers that JSON does not have become texts."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
