"""RULER's prompts against those of lm-eval's own makers: as many units of noise, from the same seed, byte for byte.

lm-eval's makers run as its tasks call them, with their own search for the number of units, in a tokenizer whose
vocabulary has the size of real ones. Only what is ours on purpose is given to them: where sentences end, and that what
numbers the words of `ruler_cwe` is drawn from the sample's seed instead of from all samples before it.
"""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sidewinder.evaluate import ruler
from sidewinder.evaluate.local_data import LocalData, reading
from sidewinder.evaluate.presets import RULER
from sidewinder.evaluate.ruler_tasks import fetching_nothing, maker_for

from .ruler_sets import HOTPOT, SQUAD, Large

LENGTH = 4096
MAKERS = {
    # Task: module, what its samples come from, what draws one. RULER's other tasks are needles.
    "ruler_vt": ("vt_utils", "sys_vartrack_w_noise_random", "get_vt_dataset"),
    "ruler_cwe": ("cwe_utils", "sys_word_pair_random", "get_cw_dataset"),
    "ruler_fwe": ("fwe_utils", "sys_kwext", "fwe_download"),
    "ruler_qa_squad": ("qa_utils", "generate_samples", "get_squad"),
    "ruler_qa_hotpot": ("qa_utils", "generate_samples", "get_hotpotqa"),
}
Generators = tuple[Any, Any]


@pytest.mark.parametrize("task", RULER)
def test_a_prompt_is_lm_evals_own(task: str, ruler_data: Path, large: Large, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:  # The modules are those that our makers use.
        theirs, units = lm_evals(task, ruler_data, large, patched)
    maker = maker_for(task, LENGTH, LocalData(ruler_data), "essays")
    with ruler.seeded("seed"):
        ours = maker.make(units - smallest(task, ruler_data), 0)
    assert units >= 10
    assert {key: theirs[key] for key in ours} == ours
    assert set(ours) == {"input", "outputs", "gen_prefix"}


def smallest(task: str, data: Path) -> int:
    """Units that our sizes do not count."""
    if task == "ruler_qa_hotpot":
        return len(json.loads((data / HOTPOT).read_text())[0]["context"]) - 1
    return {"ruler_cwe": 10, "ruler_fwe": 100}.get(task, 0)


def lm_evals(task: str, data: Path, large: Large, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], int]:
    """The first sample of lm-eval's task, drawn from the seed, and its units of noise."""
    with fetching_nothing():
        module, draws, outer, dataset = makers(task)
    with ruler.seeded("seed"):
        state: Generators = (random.getstate(), np.random.get_state())
    units = []

    draw, make = draws.generate_input_output, getattr(module, outer)

    def drawn(*given: Any, **settings: Any) -> Any:
        """As each attempt of the search, the last of which is the sample, begins from the seed."""
        random.setstate(state[0])
        np.random.set_state(state[1])
        if task == "ruler_cwe":
            module.RNG = random.Random(random.randrange(2**32))
        found = draw(*given, **settings)
        units.append(
            found[2] if task == "ruler_fwe" else settings.get("num_docs", given[1] if "qa" in task else given[0])
        )
        return found

    def one(*given: Any, **settings: Any) -> Any:
        """Of the 500. The example before a chain comes first, and the chain is drawn after it."""
        nonlocal state
        found = make(*given, **settings | {"num_samples": 1})
        state = (random.getstate(), np.random.get_state())
        return found

    monkeypatch.setattr(draws, "generate_input_output", drawn)
    monkeypatch.setattr(module, outer, one)
    monkeypatch.setattr(
        module, "get_tokenizer", lambda name: lambda text: SimpleNamespace(input_ids=large.encode(text))
    )
    if module is not draws:
        monkeypatch.setattr(module, "get_haystack", draws.get_haystack.__wrapped__)
        monkeypatch.setattr(draws, "cached_sent_tokenize", lambda text: text.replace(". ", ".\n").split("\n"))
    if "qa" in task:
        named = {"rajpurkar": SQUAD, "namlh2004": HOTPOT}
        place = {key: json.loads((data / name).read_text()) for key, name in named.items()}
        monkeypatch.setattr(module, "download_json", lambda url: next(place[key] for key in place if key in url))
        for reader in ("read_squad", "read_hotpotqa"):
            monkeypatch.setattr(module, reader, getattr(module, reader).__wrapped__)
    with ruler.seeded("other"), reading(LocalData(data)):
        made = dataset(max_seq_lengths=[LENGTH], tokenizer="any")
    return made["test"][0], units[-1]


def makers(task: str) -> tuple[Any, Any, str, Any]:
    """Modules of lm-eval: of the task and of its draws; its function that makes samples, and that of the data set."""
    name, outer, dataset = MAKERS.get(task, ("niah_utils", "generate_samples", task))
    module = importlib.import_module(f"lm_eval.tasks.ruler.{name}")
    draws = importlib.import_module("lm_eval.tasks.ruler.prepare_niah") if name == "niah_utils" else module
    return module, draws, outer, getattr(module, dataset)
