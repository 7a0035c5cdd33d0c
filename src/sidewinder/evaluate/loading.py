"""Units of a suite as tasks of lm-eval: found, given their data, and made to a length where they have one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import Any

from sidewinder.config.suites import Harness
from sidewinder.errors import EvaluationError, SidewinderError
from sidewinder.evaluate import made_tasks, ruler, squad
from sidewinder.evaluate.hub_data import HubData
from sidewinder.evaluate.local_data import LocalData, reading
from sidewinder.evaluate.mendable import Mendable, can_be_mended
from sidewinder.evaluate.needs import FILES
from sidewinder.evaluate.phonebook import REVERSED, STANDARD
from sidewinder.evaluate.presets import PHONEBOOK, RULER, SHOTLESS, SIZED, Unit
from sidewinder.evaluate.ruler_tasks import QA_FILES, best_reference, fetching_nothing
from sidewinder.evaluate.subject import Subject
from sidewinder.evaluate.task_index import TASKS  # Before lm_eval: it sets what tqdm reads when imported.

from lm_eval.tasks import TaskManager  # isort: skip
from lm_eval.tasks._yaml_loader import _load_module_with_cache, load_yaml  # isort: skip

FEWSHOT_SEED = 1234
"""lm-eval's own, so that examples are those of its command line."""
SAMPLES_MADE = 100
"""Of RULER's tasks and Phonebook at each length, where a suite does not say; RULER itself takes 500."""


def load_unit(
    manager: TaskManager, unit: Unit, suite: Harness, subject: Subject, data: LocalData | HubData | None
) -> dict[str, Any]:
    """lm-eval's tasks and groups of a unit, with its shots. Raises EvaluationError that names what is missing."""
    if unit.task not in manager.task_index:
        near = get_close_matches(unit.task, manager.task_index, n=3, cutoff=0.0)
        raise EvaluationError(f"unknown lm-eval task {unit.task!r}", remedy=f"use one of those near: {', '.join(near)}")
    if unit.shots and unit.task in SHOTLESS:
        raise EvaluationError(
            f"{unit.task} takes no shots, but {unit.shots} are asked for",
            remedy=f"ask for none: {{task: {unit.task}, shots: [0]}}",
        )
    with reading(data), substituted(unit.task):
        return named(manager, lambda: _spec(manager, unit, suite, subject, data), unit)


def named(manager: TaskManager, spec: Callable[[], Any], unit: Unit) -> dict[str, Any]:
    """lm-eval's tasks and groups of a specification, with the unit's shots; errors name the unit's task."""
    try:
        found = dict(manager.load([spec()]))
    except SidewinderError:
        raise
    except Exception as error:  # Loaders of data sets raise errors of every kind, often several layers deep.
        told = f"lm-eval task {unit.task!r} cannot be loaded: {type(error).__name__}: {error}"
        if can_be_mended(error):
            raise Mendable(
                told,
                remedy="its data set, or a library that it needs, is not to be had on this machine now: name a folder "
                "with the data (`data`, made by `sidewinder datasets fetch`), or try again where there is a network",
            ) from error
        raise EvaluationError(
            told, remedy="compare the data set's columns with those that the task reads, or leave the task out"
        ) from error
    for name, task in found["tasks"].items():
        if task.get_config("num_fewshot") != 0:  # A task that fixes zero shots keeps them, as in lm-eval's command.
            task.set_config(key="num_fewshot", value=unit.shots)
        elif unit.shots and unit.task not in SIZED:  # Those have their shots in their samples.
            raise EvaluationError(
                f"lm-eval task {name!r} has 0 shots in its own configuration, not the {unit.shots} that are asked for",
                remedy=f"ask for none: {{task: {unit.task}, shots: [0]}}",
            )
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return found


def _spec(manager: TaskManager, unit: Unit, suite: Harness, subject: Subject, data: LocalData | HubData | None) -> Any:
    """The task's name, or for tasks made to a length lm-eval's configuration with our samples."""
    if unit.length_tokens is None:
        return unit.task
    length, samples = unit.length_tokens, suite.samples or SAMPLES_MADE
    if unit.task in PHONEBOOK:
        variant = REVERSED if unit.task.endswith("reversed") else STANDARD
        queries = 1 if variant == REVERSED else suite.queries
        made = made_tasks.phonebook_samples(
            subject,
            variant,
            lengths_tokens=[length],
            books=-(-samples // queries),
            queries=queries,
            digits=suite.digits,
            shots=unit.shots,
            seed=suite.seed,
        )
        return _config(manager, unit.task) | {"custom_dataset": _given(made)}
    made = _ruler_samples(unit, length, samples, suite, subject, data)
    config = _config(manager, unit.task) | {"num_fewshot": 0}  # An example would be another sample of that length.
    metric = config["metric_list"][0] | {"metric": str(length)}
    own: dict[str, Any] = {"custom_dataset": _given(made), "metric_list": [metric, metric | {"metric": "4096"}]}
    if unit.task in QA_FILES:
        own["process_results"] = best_reference
    return config | own


def _ruler_samples(
    unit: Unit, length: int, samples: int, suite: Harness, subject: Subject, data: LocalData | HubData | None
) -> list[dict[str, Any]]:
    folder = data if isinstance(data, LocalData) else None
    made = ruler.make(unit.task, length, samples, subject.encode, seed=suite.seed, data=folder, haystack=suite.haystack)
    if isinstance(data, HubData) and unit.task in QA_FILES:
        place, address = FILES[unit.task]
        data.note(place, _module("ruler/qa_utils.py").download_json(address))  # Which keeps what it has got.
    return made


def _config(manager: TaskManager, task: str) -> dict[str, Any]:
    return dict(load_yaml(manager.task_index[task].yaml_path, resolve_func=True))


def _given(samples: list[dict[str, Any]]) -> Any:
    def dataset(**settings: Any) -> dict[str, Any]:
        return made_tasks.splits(samples)

    return dataset


@contextmanager
def substituted(task: str) -> Iterator[None]:
    """Stands in for what lm-eval's SCROLLS and SQuAD tasks would download, or import from where it no longer is."""
    if task.startswith("scrolls"):
        _transformers_metrics()
        scrolls = _module("scrolls/task.py")
        scrolls._download_metric = lambda: squad.__name__
        scrolls.load = lambda path, config_name=None: squad.ScrollsMetric()
        scrolls.load_dataset = _load_dataset
    if task == "squadv2":
        _module("squadv2/task.py")._squad_metric = squad.squad_v2
    with fetching_nothing() if task in RULER else nullcontext():
        yield


def _load_dataset(*names: Any, **settings: Any) -> Any:
    """`datasets.load_dataset` as it is at the time, not as it was when the task was imported."""
    import datasets

    return datasets.load_dataset(*names, **settings)


@cache
def _transformers_metrics() -> None:
    """SCROLLS' tasks import a function from a module that transformers 5 no longer has."""
    name = "transformers.data.metrics"
    try:
        __import__(f"{name}.squad_metrics")
    except ImportError:
        package, metrics = ModuleType(name), ModuleType(f"{name}.squad_metrics")
        metrics.normalize_answer = squad.normalise  # type: ignore[attr-defined]
        package.squad_metrics = metrics  # type: ignore[attr-defined]
        sys.modules |= {name: package, f"{name}.squad_metrics": metrics}


def _module(path: str) -> Any:
    return _load_module_with_cache((TASKS / path).resolve())
