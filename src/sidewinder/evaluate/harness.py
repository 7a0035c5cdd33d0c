"""A harness suite: its units one after another through lm-eval's own evaluator, on our adapter.

A unit that is done is kept in `.parts`, and answers within a unit in its journal, so that a killed suite goes on with
what is missing. A unit that cannot run is named with the reason, and the rest goes on: the record holds what was left
out, unless that can be mended without changing the suite (mendable.py), which leaves the suite unfinished.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from sidewinder.config.suites import Harness
from sidewinder.errors import EvaluationError, SidewinderError
from sidewinder.evaluate import cloze, loading  # Before lm_eval: it sets what tqdm reads when imported.
from sidewinder.evaluate.adapter import SidewinderLM
from sidewinder.evaluate.hub_data import HubData
from sidewinder.evaluate.journal import Journal
from sidewinder.evaluate.local_data import LocalData, reading
from sidewinder.evaluate.mendable import Mendable
from sidewinder.evaluate.outcome import Outcome, Score
from sidewinder.evaluate.presets import Unit, units
from sidewinder.evaluate.ranks import Ranks
from sidewinder.evaluate.results import sample_of, scores_of, skipped_of, versions_of
from sidewinder.evaluate.run import PARTS
from sidewinder.evaluate.samples import write_samples
from sidewinder.evaluate.squad import VERSION as SQUAD
from sidewinder.evaluate.subject import Subject
from sidewinder.evaluate.task_index import manager_for
from sidewinder.record import write_atomically

from datasets import Dataset  # isort: skip
from lm_eval import evaluator  # isort: skip
from lm_eval.tasks import TaskManager  # isort: skip

BOOTSTRAP_ROUNDS = 1000  # For metrics whose standard error has no formula.
OF_THE_DATA = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    SyntaxError,  # Of values that are read as Python, such as RACE's.
    TemplateError,
    TypeError,
    ValueError,
    re.error,
)
"""What a task's code raises where a value is not what it reads; another RuntimeError is the model's or the device's."""


@dataclass
class Part:
    """What one unit found. Its samples are in a file beside it."""

    scores: list[Score]
    versions: dict[str, str]
    truncated: int = 0
    skipped: int = 0
    """Questions that did not fit with their documents, in place of which others were asked."""
    used: dict[str, str] = field(default_factory=dict)
    """Data sets with their revisions."""
    variant: str | None = None
    """Of the unit; the scores' own also tell their filters."""

    def text(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def read(cls, path: Path) -> Part:
        found = json.loads(path.read_text())
        return cls(**found | {"scores": [Score(**score) for score in found["scores"]]})


Runner = Callable[[Subject, Unit, Journal, Ranks], Any]


def run(
    subject: Subject,
    suite: Harness,
    folder: Path,
    *,
    data: Path | None = None,
    identity: str = "",
    model: Runner | None = None,
) -> Outcome:
    """Scores of every metric of every unit. The cloze data set is left in `folder`.

    `identity` tells the parts of equal inputs, from which a killed suite goes on; without it nothing is taken over.
    `model` makes the lm-eval model of a unit: our adapter, unless told. Raises EvaluationError where no unit could be
    run, naming all, and where some could be run at another time, naming them; the parts of the others are kept.
    """
    ranks = subject.ranks
    wanted, left_out = units(suite, subject.context_tokens)
    parts = folder / PARTS / (identity[:12] or "unnamed")
    if not identity:
        shutil.rmtree(parts, ignore_errors=True)
    source = LocalData(data) if data else HubData()
    manager, runner = _manager(wanted, suite.include_path), model or partial(_adapter, suite.batch_tokens)
    outcome = Outcome(versions={"lm-eval": metadata.version("lm-eval"), "squad": SQUAD})
    failed: dict[str, str] = {}
    lacking: dict[str, str] = {}
    truncated: dict[str, int] = {}
    skipped: dict[str, int] = {}
    used: dict[str, str] = {}
    for unit in wanted:
        try:
            part = _part(subject, suite, unit, manager, source, folder, parts, ranks, runner)
        except SidewinderError as error:
            later = isinstance(error, Mendable)
            (lacking if later else failed)[unit.name] = str(error)
            if ranks.rank == 0:
                what = "put off" if later else "left out"
                print(f"{subject.title}: task {unit.name} is {what}: {error}", file=sys.stderr)
            continue
        outcome.scores += part.scores
        outcome.sample_files.append(parts / f"{unit.name}.parquet")
        outcome.versions |= part.versions
        truncated |= {unit.name: part.truncated} if part.truncated else {}
        skipped |= {unit.name: part.skipped} if part.skipped else {}
        used |= part.used
    if lacking:
        raise _unfinished(lacking, len(outcome.sample_files))
    if failed and not outcome.scores:
        raise EvaluationError(("no task of the suite could be run:\n" if len(failed) > 1 else "") + _listed(failed))
    outcome.facts |= {"truncated": sum(truncated.values()), "truncated_by_task": truncated, "missing": failed}
    outcome.facts |= {"skipped_by_task": skipped, "lengths_left_out": left_out, "datasets": used}
    return outcome


def _adapter(batch_tokens: int | None, subject: Subject, unit: Unit, journal: Journal, ranks: Ranks) -> SidewinderLM:
    longest = max(subject.context_tokens, unit.length_tokens or 0)
    return SidewinderLM(subject=subject, max_length=longest, batch_tokens=batch_tokens, journal=journal, ranks=ranks)


def _unfinished(lacking: dict[str, str], done: int) -> EvaluationError:
    """Every process raises it alike."""
    error = EvaluationError(
        f"the suite is not finished: these tasks lack what may be had at another time\n{_listed(lacking)}",
        remedy=f"mend that and run the same command again: {done} tasks are done, and not repeated; nor are they where "
        "the suite is changed to name only tasks that can be run here",
    )
    error.everywhere = True
    return error


def _listed(reasons: dict[str, str]) -> str:
    return "\n".join(f"{name}: {reason}" for name, reason in reasons.items())


def _manager(wanted: list[Unit], include_path: str | None) -> TaskManager:
    return manager_for([unit.task for unit in wanted if unit.task != cloze.TASK], include_path)


def _part(
    subject: Subject,
    suite: Harness,
    unit: Unit,
    manager: TaskManager,
    data: LocalData | HubData,
    folder: Path,
    parts: Path,
    ranks: Ranks,
    model: Runner,
) -> Part:
    """A unit's part, read where it was made before, else made and kept."""
    kept = parts / f"{unit.name}.json"
    if ranks.told(_is_kept(kept, unit, data)):
        return Part.read(kept)
    journal = Journal(parts / unit.name, ranks.rank)
    ranks.wait()  # All have read what was there before anyone adds to it.
    data.used = {}
    loaded: dict[str, Any] = {}

    def load() -> dict[str, Any]:
        if unit.task == cloze.TASK:
            loaded.update(loading.named(manager, lambda: _cloze_task(subject, suite, folder), unit))
        else:
            loaded.update(loading.load_unit(manager, unit, suite, subject, data))
        return {}

    ranks.together(load)  # What one process cannot have, none goes on with.
    lm = model(subject, unit, journal, ranks)
    with reading(data), loading.substituted(unit.task):
        results = _evaluated(lm, loaded, suite, unit)
    part = Part(scores_of(unit, results), versions_of(results))
    part.truncated = getattr(lm, "truncated", 0)
    part.skipped = skipped_of(unit, results)
    part.used = dict(data.used)
    part.variant = unit.variant

    def keep() -> dict[str, Any]:
        if ranks.rank == 0:
            samples = [sample_of(unit, task, sample) for task, found in results["samples"].items() for sample in found]
            write_samples(kept.with_suffix(".parquet"), samples)
            write_atomically(kept, part.text())
            shutil.rmtree(parts / unit.name, ignore_errors=True)
        return {}

    ranks.together(keep)
    return part


def _is_kept(path: Path, unit: Unit, data: LocalData | HubData) -> bool:
    """Whether a unit's part is there, made under this name from data that is still the same."""
    part = Part.read(path) if path.is_file() else None
    return part is not None and part.variant == unit.variant and data.unchanged(part.used)


def _evaluated(lm: Any, loaded: dict[str, Any], suite: Harness, unit: Unit) -> dict[str, Any]:
    """lm-eval's own results. Raises EvaluationError that names the task where its code fails on its data."""
    try:
        return dict(
            evaluator.evaluate(
                lm=lm, task_dict=loaded, limit=suite.samples, bootstrap_iters=BOOTSTRAP_ROUNDS, log_samples=True
            )
        )
    except SidewinderError:
        raise
    except OF_THE_DATA as error:
        raise EvaluationError(
            f"lm-eval task {unit.task!r} fails on its data: {type(error).__name__}: {error}",
            remedy="compare the data set's columns with those that the task reads, or leave the task out",
        ) from error


def _cloze_task(subject: Subject, suite: Harness, folder: Path) -> dict[str, Any]:
    """lm-eval's configuration of the cloze task, reading the file that is written here."""
    if subject.heldout is None:
        raise EvaluationError(
            f"{cloze.TASK} is made from held-out text, and {subject.title} came without any",
            remedy="evaluate a checkpoint of a study",
        )
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
